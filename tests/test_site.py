"The site and the demo page, as files and in a browser: everything is there, and nothing asks the network."
import importlib, inspect, re, shutil, subprocess, sys
from html.parser import HTMLParser
from urllib.parse import unquote, urlsplit
import pytest
from conftest import ROOT, axe_script

sys.path.insert(0, str(ROOT/'nbs/_site'))
from api import KNOWN, target

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
    html = (site/'17_models.html').read_text(encoding='utf-8')
    assert 'class="k">def</span>' in html and 'spans' in html and '<img' in html and 'show_doc' not in html and '#| ' not in html

MODULES = sorted(p.stem for p in (ROOT/'coderank_qdrant').glob('*.py') if p.stem not in ('__init__', '_modidx', 'all'))

def entries(page):
    "label: text, of each name on a page of the API."
    found = re.split(r'<section id="(api-[^"]*)">', page.partition('</article>')[0])[1:]
    return {label: re.sub(r'<[^>]+>', '', part) for label,part in zip(found[::2], found[1::2], strict=True)}

@pytest.mark.parametrize('module', MODULES)
def test_every_public_name_has_its_entry(site, module):
    names = importlib.import_module(f'coderank_qdrant.{module}').__all__
    found = entries((site/f'api/{module}.html').read_text(encoding='utf-8'))
    assert sorted(names) == sorted(KNOWN[module]) and len(found) == len(names) > 0
    for name in names:
        text, thing = found[re.sub(r'[._]', '-', target(module, name))], getattr(sys.modules[f'coderank_qdrant.{module}'], name)
        assert name in text and 'Source:' in text
        if not inspect.isfunction(thing): continue
        said = inspect.getsource(inspect.unwrap(thing)).partition('"\n')[0]
        assert all(parameter in text for parameter in inspect.signature(thing).parameters), name
        assert ('Raises' in text) == bool(re.search(r'\braises? (?:an? )?`|# raises|; raises', said, re.I)), name

def outside(html): return re.sub(r'<details class="folded">.*?</details>', '', html, flags=re.S)

def test_source_is_folded_and_signatures_and_lessons_are_not(site):
    html = (site/'15_files.html').read_text(encoding='utf-8')
    words, left = re.sub('<[^>]+>', '', html), re.sub('<[^>]+>', '', outside(html))
    assert '<summary>Source: OUTPUTS, _has_cache, why_other</summary>' in html and 'id="files-why-other"' in html
    assert 'return \'an output of coderank_embed\'' in words and 'return \'an output of coderank_embed\'' not in left
    assert 'def why_other(file:Path # Any file' in left and "test_eq(path_text(Path('docs')" in left and 'docs/intro.md' in left
    assert '<summary>Code of 36 lines</summary>' in (site/'48_parallel.html').read_text(encoding='utf-8')

def test_no_chapter_shows_the_body_of_a_function_of_the_package_unasked(site):
    "Every exported cell is folded, unless it is nothing but what its signature says."
    from folding import directives, undirected
    import json
    for notebook in sorted((ROOT/'nbs').glob('[0-9]*.ipynb')):
        html = (site/f'{notebook.stem}.html').read_text(encoding='utf-8')
        cells = [''.join(cell['source']) for cell in json.loads(notebook.read_text(encoding='utf-8'))['cells'] if cell['cell_type'] == 'code']
        functions = [cell for cell in cells if 'exports' in directives(cell) and re.search(r'^ +return ', undirected(cell), re.M)]
        assert html.count('<summary>Source: ') >= len(functions), notebook.stem

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

CLIPPED = "[...document.querySelectorAll('article pre')].filter(pre => pre.scrollWidth > pre.clientWidth).map(pre => pre.textContent.slice(0, 60))"

@needs_chromium
def test_no_page_scrolls_sideways_on_a_phone_clips_code_on_a_desk_or_has_an_error(site, chromium):
    "Code may be wider than its box in the book, where it keeps its lines; no other page clips any."
    phone, desk = dict(width=390, height=800), dict(width=1300, height=900)
    page, faults = watched(chromium, viewport=phone)
    for p in pages(site):
        page.goto(p.as_uri())
        page.evaluate("document.querySelectorAll('details').forEach(folded => folded.open = true)")
        if page.evaluate('document.documentElement.scrollWidth') > 390: faults.append(f'{p.name} scrolls sideways')
        if p.parent == site and p.stem not in ('index', 'reference', 'kaggle', 'integrations'): continue
        if p.parent.name != 'api': page.set_viewport_size(desk) # signatures fit on a phone, too
        faults += [f'{p.name} clips {code}' for code in page.evaluate(CLIPPED)]
        if p.parent.name != 'api': page.set_viewport_size(phone)
    page.close()
    assert not faults

PAGES_OF_A_KIND = ['index', 'start/install', 'start/quickstart', 'guides/sync', 'lookup/commands', 'reference', 'api/parallel', '42_dashboard', '34_batching']

@needs_chromium
@pytest.mark.parametrize('name', PAGES_OF_A_KIND)
def test_axe_finds_nothing_serious(site, chromium, name):
    page, faults = watched(chromium)
    page.goto((site/f'{name}.html').as_uri())
    page.add_style_tag(content='*, *::before, *::after {transition: none !important; animation: none !important}')  # colours as they end up
    page.evaluate(axe_script())
    for width in 1300, 390:
        page.set_viewport_size(dict(width=width, height=900))
        for scheme in 'light', 'dark':
            page.emulate_media(color_scheme=scheme, reduced_motion='reduce')
            page.evaluate('new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))')  # the page has seen its new size
            found = page.evaluate("axe.run(document, {resultTypes: ['violations'], preload: false})")
            assert len(found['passes']) > 10
            faults += [(width, scheme, fault['id'], node['html'][:100]) for fault in found['violations'] if fault['impact'] in ('critical', 'serious')
                       for node in fault['nodes']]
    page.close()
    assert not faults

@needs_chromium
def test_folded_source_opens_without_javascript(site, chromium):
    page = chromium.new_page(java_script_enabled=False)
    page.goto((site/'16_corpus.html').as_uri())
    folded = page.locator('details.folded', has_text='Source: read_corpus').last
    assert not folded.locator('pre').is_visible()
    folded.locator('summary').click()
    assert folded.locator('pre').is_visible()
    page.close()

@needs_chromium
@pytest.mark.parametrize('asked,answers', [('embed_corpus', '53_pipeline|api/pipeline|index'), ('out of memory', 'lookup/messages'), ('resume', 'guides/resume'),
                                           ('internet is off', 'lookup/messages'), ('coderank_chunk', 'lookup/commands'), ('phone verification', 'guides/kaggle')])
def test_site_search_finds(site, chromium, asked, answers):
    page, faults = watched(chromium)
    page.goto(f'{(site/"search.html").as_uri()}?q={asked}')
    page.wait_for_function("document.querySelector('.search-summary')?.textContent.includes('finished')")  # results come one by one
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
