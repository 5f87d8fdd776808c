"Sphinx settings of the documentation site; `build.py` calls it."
import configparser, os
from html import escape
from pathlib import Path
from docutils import nodes
from myst_nb.sphinx_ import HideCodeCellNode

settings = configparser.ConfigParser(delimiters='=')
settings.read(Path(__file__).resolve().parents[2]/'settings.ini', encoding='utf-8')
settings = settings['DEFAULT']

project = 'coderank_qdrant'
version = release = os.environ.get('DOCS_VERSION', '')
extensions = ['myst_nb', 'sphinx_copybutton']
html_theme = 'furo'
html_title = 'coderank_qdrant'
html_copy_source = False
html_show_copyright = False
html_static_path = ['static']
html_css_files = ['site.css']
html_js_files = ['site.js']
html_favicon = 'static/favicon.svg'
smartquotes = False   # -- is an option's beginning and no dash
nb_execution_mode = 'off'
nb_ipywidgets_js = {}   # saved notebooks show plain HTML, no live widgets
myst_enable_extensions = ['colon_fence']
myst_heading_anchors = 4
suppress_warnings = ['misc.highlighting_failure']
copybutton_selector = 'div.cell_input pre, div.highlight-sh pre, div.highlight-python pre, div.highlight-json pre'
if settings['repository']:  # without an address there are no links to sources
    html_theme_options = dict(source_repository=settings['repository'], source_branch='main', source_directory='nbs/')

def describe(_app, _pagename, _templatename, context, doctree):
    "The line below a page's title is its description, for search engines and previews."
    quotes = list(doctree.findall(nodes.block_quote)) if doctree else []
    about = quotes[0].astext() if quotes else settings['description']
    context['metatags'] = f'{context.get("metatags", "")}<meta name="description" content="{escape(about)}">'

def rank_captions(_app, _pagename, _templatename, context, _doctree):
    "The captions of the sidebar are headings, and say of which rank to those who listen to the page."
    tree = context.get('furo_navigation_tree', '')
    context['furo_navigation_tree'] = tree.replace('role="heading"', 'role="heading" aria-level="2"')

def open_fold(writer, node):
    "A line that opens what is folded, and says the same to those who listen to the page."
    writer.body.append(f'<details class="folded"><summary>{escape(node["prompt_show"])}</summary>\n')

def close_fold(writer, _node): writer.body.append('</details>\n')

def setup(app):
    app.add_node(HideCodeCellNode, override=True, html=(open_fold, close_fold))
    app.connect('html-page-context', describe)
    app.connect('html-page-context', rank_captions, priority=900)  # after the theme has made the tree
