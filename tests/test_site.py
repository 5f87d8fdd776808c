"The site and the demo page, as files and in a browser: everything is there, and nothing asks the network."
import importlib, inspect, json, re, shutil, subprocess, sys
from html import unescape
from html.parser import HTMLParser
from urllib.parse import unquote, urlsplit
import pytest
from conftest import ROOT, axe_script

sys.path.insert(0, str(ROOT/'nbs/_site'))
from api import KNOWN, target
from conf import link_source, metatags, settings, site_address, theme_options
from recorded import dashboard, label, read_recording

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

def meta(html, name):
    "What a page says of itself under a name."
    return unescape(re.search(rf'<meta (?:name|property)="{name}" content="([^"]*)"', html)[1])

def test_every_page_has_a_description_an_icon_and_a_picture(site):
    for p in pages(site):
        html = p.read_text(encoding='utf-8')
        assert len(meta(html, 'description')) > 15 and meta(html, 'og:description') == meta(html, 'description'), p.name
        assert meta(html, 'og:title') and 'favicon.svg' in html, p.name
        picture = meta(html, 'og:image')
        assert picture.startswith('https://') or (p.parent/picture).resolve() == (site/'_static/social.png').resolve(), p.name

def test_one_setting_has_the_address_of_the_source(site):
    "Without it no link is shown; with it previews get whole addresses, and pages a link to their source if they have one."
    linked = [p.name for p in pages(site) if 'class="edit-this-page"' in p.read_text(encoding='utf-8')]
    assert bool(linked) == bool(settings['repository']), linked
    assert theme_options('') == {} and theme_options('https://github.com/Ann/b')['footer_icons'][0]['url'] == 'https://github.com/Ann/b/issues/new/choose'
    for name,suffix,kept in ('start/install', '.md', '.md'), ('36_cache', '.ipynb', '.ipynb'), ('api/cache', '.md', ''), ('search', '', ''):
        context = dict(page_source_suffix=suffix)
        link_source(None, name, '', context, None)
        assert context['page_source_suffix'] == kept, name
    address = site_address('https://github.com/Ann/coderank_qdrant')
    tags = metatags('A & B', 'about', 'start/install.html', '../_static/social.png', address)
    assert address == 'https://ann.github.io/coderank_qdrant/' and meta(tags, 'og:title') == 'A & B'
    assert (meta(tags, 'og:image'), meta(tags, 'og:url')) == (f'{address}_static/social.png', f'{address}start/install.html')
    assert site_address('') == '' and 'og:url' not in metatags('A', 'about', 'a.html', '_static/social.png', '')

def words_of(html): return ' '.join(unescape(re.sub('<[^>]+>', '', html)).split())

def test_the_kaggle_guide_shows_the_recorded_run(site):
    html, (about, events) = (site/'guides/kaggle.html').read_text(encoding='utf-8'), read_recording()
    assert len({event.worker for event in events if event.name == 'batch'}) == 2
    for name in 'half', 'end':
        assert dashboard(events, name) in html and words_of(label(about, name)) in words_of(html), name
    assert '<!-- recorded' not in html and 'Done after' in html and 'not those of a T4' in html

def blocks(html):
    "(language, text) of each block of code that is no cell of a notebook."
    found = re.finditer(r'(<div class="cell_[^>]*>\s*)?<div class="highlight-(\w+) notranslate"><div class="highlight"><pre>(.*?)</pre>', html, re.S)
    return [(block[2], unescape(re.sub('<[^>]+>', '', block[3]))) for block in found if not block[1]]

def in_the_book(site, p): return p.parent == site and (p.stem[:2].isdigit() or p.stem == 'walks')

def test_every_block_of_code_outside_of_the_book_runs_or_is_for_a_shell(site):
    "Python is run by tests/test_quickstart.py, cells while their notebook is; what prints and what is printed is text."
    from test_quickstart import python_blocks, ten_lines
    runs = {block.strip() for block in [*python_blocks(every=True), ten_lines()]}
    found = [(p, *block) for p in pages(site) if p.parent.name != 'api' and not in_the_book(site, p) for block in blocks(p.read_text(encoding='utf-8'))]
    assert {kind for _,kind,_ in found} <= {'sh', 'text', 'json', 'python', 'ipython3'} and len(found) > 50
    assert not [(p.name, text) for p,kind,text in found if kind == 'python' and text.strip() not in runs]
    for _,kind,text in found:
        if kind == 'json': json.loads(text)

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
    assert '<summary>Code of 36 lines</summary>' in (site/'50_parallel.html').read_text(encoding='utf-8')

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

CLIPPED = """[...document.querySelectorAll('article pre')].filter(pre => pre.offsetParent)
    .map(pre => [pre.scrollWidth > pre.clientWidth, pre.textContent.slice(0, 60)])"""

@needs_chromium
def test_no_page_scrolls_sideways_on_a_phone_clips_code_on_a_desk_or_has_an_error(site, chromium):
    "Code may be wider than its box in the book, where it keeps its lines, but seldom; no other page clips any."
    phone, desk = dict(width=390, height=800), dict(width=1300, height=900)
    (page, faults), book = watched(chromium, viewport=phone), []
    for p in pages(site):
        page.goto(p.as_uri())
        page.evaluate("document.querySelectorAll('details').forEach(folded => folded.open = true)")
        if page.evaluate('document.documentElement.scrollWidth') > 390: faults.append(f'{p.name} scrolls sideways')
        if p.parent.name != 'api': page.set_viewport_size(desk) # signatures fit on a phone, too
        found = page.evaluate(CLIPPED)
        if in_the_book(site, p): book += found
        else: faults += [f'{p.name} clips {code}' for clipped,code in found if clipped]
        if p.parent.name != 'api': page.set_viewport_size(phone)
    page.close()
    assert not faults
    assert len(book) > 1000 and sum(clipped for clipped,_ in book) < .05*len(book)

@needs_chromium
def test_the_workers_of_a_dashboard_fit_on_a_phone(site, chromium):
    page, faults = watched(chromium, viewport=dict(width=390, height=800))
    page.goto((site/'guides/kaggle.html').as_uri())
    cells = page.evaluate("[...document.querySelectorAll('figure.recorded td')].map(td => [td.scrollWidth > td.clientWidth, td.clientWidth])")
    bars = page.evaluate("[...document.querySelectorAll('figure.recorded td > div:first-child:empty, figure.recorded td:nth-child(2) > div:first-child')].map(bar => bar.clientWidth)")
    page.close()
    assert not faults and len(cells) >= 24 and not any(too_wide for too_wide,_ in cells) and min(bars) >= 200, (cells, bars)

STILL = '*, *::before, *::after {transition: none !important; animation: none !important}'  # colours as they end up
SEEN = 'new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))'  # the page has its new size and colours
ALL = '{}'
COLOURS_ALONE = "{runOnly: {type: 'rule', values: ['color-contrast', 'link-in-text-block']}}"
NO_COLOURS = "{rules: {'color-contrast': {enabled: false}, 'link-in-text-block': {enabled: false}}}"
FULL = [(width, scheme, ALL) for width in (1300, 390) for scheme in ('light', 'dark')]
BRIEF = [(1300, 'light', ALL), (1300, 'dark', COLOURS_ALONE), (390, 'light', NO_COLOURS)]  # what a size or a scheme can change
AXE = """rules => axe.run(document, {resultTypes: ['violations'], preload: false, selectors: false, ...rules}).then(found => [found.passes.length,
    found.violations.filter(fault => ['critical', 'serious'].includes(fault.impact)).flatMap(fault => fault.nodes.map(node => [fault.id, node.html.slice(0, 150)]))])"""

def axe_faults(page, looks):
    "What axe finds on the page, in each of some looks: (width, colour scheme, which rules)."
    faults = []
    page.add_style_tag(content=STILL)
    page.evaluate(axe_script())
    for width,scheme,rules in looks:
        page.set_viewport_size(dict(width=width, height=900))
        page.emulate_media(color_scheme=scheme, reduced_motion='reduce')
        page.evaluate(SEEN)
        passes, found = page.evaluate(f'({AXE})({rules})')
        assert passes > 0
        faults += [(width, scheme, *fault) for fault in found]
    return faults

PAGES_OF_A_KIND = ['index', 'start/quickstart', 'guides/kaggle', 'kaggle', 'lookup/commands', 'reference', 'api/parallel', '43_dashboard', '34_batching', '67_hits']

@needs_chromium
@pytest.mark.parametrize('name', PAGES_OF_A_KIND)
def test_axe_finds_nothing_serious(site, chromium, name):
    page, faults = watched(chromium)
    page.goto((site/f'{name}.html').as_uri())
    faults += axe_faults(page, FULL)
    page.close()
    assert not faults

def part_of(site, p): return 'api' if p.parent.name == 'api' else 'book' if in_the_book(site, p) else 'rest'

@pytest.mark.slow
@needs_chromium
@pytest.mark.parametrize('part', ['rest', 'book', 'api'])
def test_axe_finds_nothing_serious_on_any_page(site, chromium, part):
    "Each page once, and again with the rules that a colour scheme or a size can change. It takes 2 s of a processor each."
    page, faults = watched(chromium)
    for p in pages(site):
        if part_of(site, p) != part: continue
        page.goto(p.as_uri())
        faults += [(p.relative_to(site).as_posix(), *fault) for fault in axe_faults(page, BRIEF)]
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
@pytest.mark.parametrize('asked,answers', [('embed_corpus', '55_pipeline|api/pipeline|index'), ('out of memory', 'lookup/messages'), ('resume', 'guides/resume'),
                                           ('internet is off', 'lookup/messages'), ('coderank_chunk', 'lookup/commands'), ('phone verification', 'guides/kaggle')])
def test_site_search_finds(site, chromium, asked, answers):
    page, faults = watched(chromium)
    page.goto(f'{(site/"search.html").as_uri()}?q={asked}')
    page.wait_for_function("document.querySelector('.search-summary')?.textContent.includes('finished')")  # results come one by one
    found = page.evaluate("[...document.querySelectorAll('#search-results li a')].map(a => a.getAttribute('href'))")
    page.close()
    assert not faults and any(re.match(rf'(?:\./)?({answers})\.html', link) for link in found[:10]), found[:10]

@needs_chromium
def test_site_search_finds_every_public_name(site, chromium):
    "Asked as the search box asks, all on one page; the module's page or its chapter is among the first twenty, even for a word like FILES."
    page, faults = watched(chromium)
    page.goto((site/'search.html').as_uri())
    names = [(module, name) for module,listed in KNOWN.items() for name in listed]
    page.wait_for_function('Search.hasIndex()')
    found = page.evaluate("""names => names.map(name => {
        const [query, terms, excluded, highlight, objects] = Search._parseQuery(name);
        return Search._performSearch(query, terms, excluded, highlight, objects).map(hit => hit[0]).reverse();
    })""", [name for _,name in names])
    page.close()
    lost = [(module, name, hits[:10]) for (module,name),hits in zip(names, found, strict=True)
            if not any(hit == f'api/{module}' or hit.partition('_')[2] == module for hit in hits[:20])]
    assert not faults and len(names) > 500 and not lost, lost

@needs_chromium
def test_commands_have_copy_buttons(site, chromium):
    page, faults = watched(chromium)
    page.goto((site/'start/quickstart.html').as_uri())
    assert page.locator('div.highlight-sh button.copybtn').count() >= 5 and not page.locator('div.highlight-text button.copybtn').count()
    page.close()
    assert not faults
