"Sphinx settings of the documentation site; `build.py` calls it."
import configparser, os, re, sys
from html import escape, unescape
from pathlib import Path
from docutils import nodes
from myst_nb.sphinx_ import HideCodeCellNode

sys.path.insert(0, str(Path(__file__).resolve().parent))
from recorded import with_dashboards

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

def theme_options(repository):
    "Links to sources and to a form for problems; without an address there are none."
    if not repository: return {}
    form, words = f'{repository.removesuffix("/")}/issues/new/choose', 'Report a problem'
    return dict(source_repository=repository, source_branch='main', source_directory='nbs/',
                footer_icons=[{'name': words, 'url': form, 'html': words, 'class': ''}])

html_theme_options = theme_options(settings['repository'])

def site_address(repository):
    "Where GitHub shows the site of a repository, or '' where there is none."
    found = re.fullmatch(r'https://github\.com/([\w.-]+)/([\w.-]+?)(?:\.git)?/?', repository)
    return f'https://{found[1].lower()}.github.io/{found[2]}/' if found else ''

def metatags(title, about, page, picture, address):
    "What search engines and previews read; without an address of the site, the picture is named as the page sees it."
    said = [('name', 'description', about), ('property', 'og:type', 'website'), ('property', 'og:site_name', project),
            ('property', 'og:title', title), ('property', 'og:description', about),
            ('property', 'og:image', f'{address}_static/social.png' if address else picture),
            ('property', 'og:image:alt', f'{project}: {settings["description"]}'),
            ('name', 'twitter:card', 'summary_large_image')]
    if address: said.append(('property', 'og:url', f'{address}{page}'))
    return ''.join(f'<meta {kind}="{name}" content="{escape(text)}">\n' for kind,name,text in said)

def describe(app, pagename, _templatename, context, doctree):
    "The line below a page's title is its description."
    quotes = list(doctree.findall(nodes.block_quote)) if doctree else []
    about = quotes[0].astext().replace('\n', ' ') if quotes else settings['description']
    title = re.sub('<[^>]+>', '', context.get('title') or project)
    picture = context['pathto']('_static/social.png', 1)
    page, address = app.builder.get_target_uri(pagename), site_address(settings['repository'])
    tags = metatags(unescape(title), about, page, picture, address)
    context['metatags'] = context.get('metatags', '') + tags

def link_source(_app, pagename, _templatename, context, _doctree):
    "A page that is made while the site is built has no source of its own to be shown or edited."
    source = Path(__file__).resolve().parents[1]/f'{pagename}{context.get("page_source_suffix", "")}'
    if not source.is_file(): context['page_source_suffix'] = ''

def put_dashboards(_app, _name, source):
    "Pictures of recorded runs, in the places of their marks."
    source[0] = with_dashboards(source[0])

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
    app.connect('source-read', put_dashboards)
    app.connect('html-page-context', describe)
    app.connect('html-page-context', link_source)
    app.connect('html-page-context', rank_captions, priority=900)  # after the theme has made the tree
