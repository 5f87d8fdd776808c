"The site and the demo page, as files and in a browser: everything is there, and nothing asks the network."
import re, shutil, subprocess, sys
from html.parser import HTMLParser
from urllib.parse import unquote, urlsplit
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
    names = {p.stem for p in (ROOT/'nbs').glob('*.ipynb')} | {'reference', 'search', 'lookup/commands', 'contributing', 'changelog'}
    names |= {p.relative_to(ROOT/'nbs').with_suffix('').as_posix() for p in (ROOT/'nbs').glob('[a-z]*/*.md')}
    assert names <= {p.relative_to(site).with_suffix('').as_posix() for p in pages(site)} and 'guides/kaggle' in names
    for p in pages(site): assert not asks_network(p.read_text(encoding='utf-8')), p.name

class Links(HTMLParser):
    "What a page links to, and what can be linked to in it."
    def __init__(self, text):
        super().__init__()
        self.links, self.ids = [], set()
        self.feed(text)
    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.links += [attrs[k] for k in ('href', 'src') if attrs.get(k)]
        self.ids |= {attrs[k] for k in ('id', 'name') if attrs.get(k)}

def pages(site): return [p for p in sorted(site.rglob('*.html')) if '_static' not in p.parts]

def test_every_link_leads_somewhere(site):
    found = {p.resolve(): Links(p.read_text(encoding='utf-8')) for p in pages(site)}
    dead, checked = [], 0
    for page,known in found.items():
        for link in known.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc: continue
            target = (page.parent/unquote(parts.path)).resolve() if parts.path else page
            anchor = unquote(parts.fragment)
            fine = target.exists() and (not anchor or target not in found or anchor in found[target].ids)
            checked += 1
            if not fine: dead.append(f'{page.relative_to(site.resolve())}: {link}')
    assert not dead and checked > 1000, dead

def test_every_page_has_a_description_and_an_icon(site):
    for p in pages(site):
        if p.stem in ('search', 'genindex'): continue
        html = p.read_text(encoding='utf-8')
        assert re.search(r'<meta name="description" content="[^"]{15,}"', html) and 'favicon.svg' in html, p.name

def test_lists_for_programs(site):
    text, full = [(site/name).read_text(encoding='utf-8') for name in ('llms.txt', 'llms-full.txt')]
    listed = re.findall(r'^- \[.+\]\((.+)\): .+$', text, re.M)
    assert {p.relative_to(site).as_posix() for p in pages(site)} - {'search.html', 'genindex.html'} == set(listed)
    assert all(part in full for part in ('# Quickstart', '# Commands', '--stop_after', 'No weights for'))

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

@pytest.fixture(scope='module')
def chromium():
    play = pytest.importorskip('playwright.sync_api', reason='playwright is not installed').sync_playwright
    with play() as p:
        b = p.chromium.launch(executable_path=CHROMIUM, args=['--no-sandbox', '--host-resolver-rules=MAP * ~NOTFOUND'])
        yield b
        b.close()

def watched(chromium, **kwargs):
    "A browser page, and a list of its errors and of what it asks the network for."
    page, faults = chromium.new_page(**kwargs), []
    page.on('console', lambda message: faults.append(message.text) if message.type == 'error' else None)
    page.on('pageerror', lambda error: faults.append(str(error)))
    page.on('request', lambda request: None if request.url.startswith(('file:', 'data:')) else faults.append(request.url))
    return page, faults

@needs_chromium
def test_no_page_scrolls_sideways_on_a_phone_or_has_an_error(site, chromium):
    page, faults = watched(chromium, viewport=dict(width=390, height=800))
    for p in pages(site):
        page.goto(p.as_uri())
        if page.evaluate('document.documentElement.scrollWidth') > 390: faults.append(f'{p.name} scrolls sideways')
    page.close()
    assert not faults

@needs_chromium
@pytest.mark.parametrize('asked,answers', [('embed_corpus', '51_pipeline|reference|index'), ('out of memory', 'lookup/messages'), ('resume', 'guides/resume'),
                                           ('internet is off', 'lookup/messages'), ('coderank_chunk', 'lookup/commands'), ('phone verification', 'guides/kaggle')])
def test_site_search_finds(site, chromium, asked, answers):
    page, faults = watched(chromium)
    page.goto(f'{(site/"search.html").as_uri()}?q={asked}')
    page.wait_for_function("document.querySelector('#search-results ul.search li') && !document.querySelector('#search-progress')?.textContent.includes('...')")
    found = page.evaluate("[...document.querySelectorAll('#search-results li a')].map(a => a.getAttribute('href'))")
    page.close()
    assert not faults and any(re.match(rf'(?:\./)?({answers})\.html', link) for link in found[:10]), found[:10]

@needs_chromium
def test_commands_have_copy_buttons(site, chromium):
    page, faults = watched(chromium)
    page.goto((site/'start/quickstart.html').as_uri())
    assert page.locator('div.highlight-sh button.copybtn').count() >= 5 and not page.locator('div.highlight-text button.copybtn').count()
    page.close()
    assert not faults
