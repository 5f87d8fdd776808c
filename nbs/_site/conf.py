"Sphinx settings of the documentation site; `build.py` calls it."
import os

project = 'coderank_qdrant'
version = release = os.environ.get('DOCS_VERSION', '')
extensions = ['myst_nb']
html_theme = 'furo'
html_title = 'coderank_qdrant'
html_copy_source = False
html_show_copyright = False
html_static_path = ['static']
html_css_files = ['site.css']
nb_execution_mode = 'off'
nb_ipywidgets_js = {}   # saved notebooks show plain HTML, no live widgets
myst_enable_extensions = ['colon_fence']
myst_heading_anchors = 4
suppress_warnings = ['misc.highlighting_failure']
