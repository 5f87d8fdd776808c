"The site and the demo page, as files and in a browser: everything is there, and nothing asks the network."
import re, shutil, subprocess, sys
import pytest
from conftest import ROOT

CHROMIUM = shutil.which('chromium') or shutil.which('chromium-browser') or shutil.which('google-chrome')
needs_chromium = pytest.mark.skipif(not CHROMIUM, reason='no Chromium on this machine: pages were checked as files only')

def browse(url, tmp, *args):
    "Run headless Chromium on a page; no network beyond the file itself."
    flags = ['--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update',
             '--disable-sync', '--host-resolver-rules=MAP * ~NOTFOUND', f'--user-data-dir={tmp}/profile', '--window-size=1300,2000']
    return subprocess.run([CHROMIUM, *flags, *args, url], capture_output=True, text=True, timeout=120)

def asks_network(html): return re.findall(r'<(?:script|link|img|iframe)[^>]*(?:src|href)="(?:https?:)?//[^"]*"', html)

@pytest.fixture(scope='session')
def site():
    if not (ROOT/'_docs/index.html').exists(): subprocess.run([sys.executable, ROOT/'nbs/_site/build.py'], check=True)
    return ROOT/'_docs'

@pytest.fixture(scope='session')
def demo_page(tmp_path_factory):
    import nbformat
    sys.path.insert(0, str(ROOT/'nbs/_site'))
    from execute import page
    f = tmp_path_factory.mktemp('page')/'kaggle.html'
    f.write_text(page(nbformat.read(ROOT/'nbs/kaggle.ipynb', as_version=4)), encoding='utf-8')
    return f

def test_every_notebook_has_a_page(site):
    names = {p.stem for p in (ROOT/'nbs').glob('*.ipynb')} | {'reference', 'search'}
    assert names <= {p.stem for p in site.glob('*.html')}
    for p in site.glob('*.html'): assert not asks_network(p.read_text(encoding='utf-8')), p.name

def test_chapters_show_code_and_results(site):
    html = (site/'15_models.html').read_text(encoding='utf-8')
    assert 'class="k">def</span>' in html and 'spans' in html and '<img' in html and 'show_doc' not in html and '#| ' not in html
    reference = (site/'reference.html').read_text(encoding='utf-8')
    assert all(f'id="{n.replace("_", "-")}"' in reference or f'id="{n}"' in reference for n in ('embed_corpus', 'read_corpus', 'find_weights'))

def test_demo_page_is_self_contained(demo_page):
    html = demo_page.read_text(encoding='utf-8')
    assert not asks_network(html) and html.count('data:image/png;base64') >= 2 and 'class="coderank"' in html

@needs_chromium
@pytest.mark.parametrize('scripts', [True, False], ids=['with JavaScript', 'without'])
def test_demo_page_in_chromium(demo_page, tmp_path, scripts):
    html = demo_page.read_text(encoding='utf-8')
    if not scripts: html = re.sub(r'<script.*?</script>', '', html, flags=re.S)
    (tmp_path/'page.html').write_text(html, encoding='utf-8')
    dom = browse((tmp_path/'page.html').as_uri(), tmp_path, '--dump-dom').stdout
    assert 'class="coderank"' in dom and dom.count('<img') >= 2 and 'Done' in dom
    browse((tmp_path/'page.html').as_uri(), tmp_path, f'--screenshot={tmp_path}/page.png')
    assert (tmp_path/'page.png').stat().st_size > 50_000

@needs_chromium
def test_site_search_finds_a_name(site, tmp_path):
    p = browse((site/'search.html').as_uri() + '?q=embed_corpus', tmp_path, '--virtual-time-budget=8000', '--dump-dom')
    assert re.search(r'<a[^>]*href="(50_pipeline|reference|index)\.html', p.stdout.split('id="search-results"')[-1])
