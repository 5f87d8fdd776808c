"The Kaggle notebook as a person meets it: JupyterLab in Chromium, Run All, the stop button, two themes, two widths."
import json, os, re, shutil, socket, subprocess, sys, time, urllib.request
import pytest
from conftest import ROOT, all_gone, write_file
from coderank_qdrant.events import read_metrics, split_runs

sync_playwright = pytest.importorskip('playwright.sync_api', reason='playwright is not installed').sync_playwright
CHROMIUM = shutil.which('chromium') or shutil.which('chromium-browser') or shutil.which('google-chrome')
pytestmark = pytest.mark.skipif(not CHROMIUM, reason='no Chromium on this machine: the notebook was not run in JupyterLab')
SHOTS, CHUNKS = ROOT/'output/screenshots', 120

def free_port():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]

SHOTS.mkdir(parents=True, exist_ok=True)

def put_settings(root, plugin, **values):
    f = root/'settings/@jupyterlab'/f'{plugin}.jupyterlab-settings'
    f.parent.mkdir(parents=True, exist_ok=True)
    f.write_text(json.dumps(values))

@pytest.fixture(scope='module')
def lab(tmp_path_factory, texts):
    "A JupyterLab with a small corpus in its folder; yields its address and the folder."
    root, port = tmp_path_factory.mktemp('lab'), free_port()
    for i in range(4): write_file(root/'files/output/small_corpus', f'part{i % 2}/doc{i}_chunks.json', texts[CHUNKS//4*i:CHUNKS//4*(i+1)], f'doc{i}.md')
    put_settings(root, 'notebook-extension/tracker', windowingMode='none')
    put_settings(root, 'apputils-extension/notification', fetchNews='false', checkForUpdates=False)
    env = {**os.environ, 'JUPYTERLAB_SETTINGS_DIR': f'{root}/settings', 'JUPYTER_CONFIG_DIR': f'{root}/config', 'JUPYTER_RUNTIME_DIR': f'{root}/runtime', 'JUPYTERLAB_WORKSPACES_DIR': f'{root}/spaces'}
    cmd = [sys.executable, '-m', 'jupyterlab', '--no-browser', '--allow-root', f'--port={port}', f'--ServerApp.root_dir={root}/files', '--IdentityProvider.token=', '--ServerApp.password=']
    with open(root/'server.log', 'w') as log: p = subprocess.Popen(cmd, env=env, stdout=log, stderr=log)
    try:
        for _ in range(120):
            try: urllib.request.urlopen(f'http://127.0.0.1:{port}/api', timeout=2).read(); break
            except OSError: time.sleep(.5)
        else: raise RuntimeError((root/'server.log').read_text())
        yield f'http://127.0.0.1:{port}', root
    finally:
        p.terminate()
        p.wait(30)

@pytest.fixture(scope='module')
def chromium():
    with sync_playwright() as p:
        b = p.chromium.launch(executable_path=CHROMIUM, args=['--no-sandbox'])
        yield b
        b.close()

def put_notebook(root, name, **settings):
    "The Kaggle notebook in the server's folder, with a person's settings."
    nb = json.loads((ROOT/'nbs/kaggle.ipynb').read_text())
    for c in nb['cells']:
        for k,v in settings.items(): c['source'] = re.sub(rf'^{k} = .*$', f'{k} = {v!r}', ''.join(c['source']), flags=re.M).splitlines(True)
        if c['cell_type'] == 'code': c.update(outputs=[], execution_count=None)
    (root/'files'/name).write_text(json.dumps(nb))

def opened(chromium, lab, name, width=1300, dark=False):
    "A page with the notebook, its kernel ready."
    url, root = lab
    put_settings(root, 'apputils-extension/themes', theme='JupyterLab Dark' if dark else 'JupyterLab Light')
    page = chromium.new_page(viewport=dict(width=width, height=1000))
    page.goto(f'{url}/lab/tree/{name}?reset', timeout=120_000)
    page.wait_for_selector('.jp-Notebook .jp-Cell', timeout=120_000)
    page.wait_for_selector('#jp-bottom-panel :text("| Idle"), #jp-main-statusbar :text("| Idle")', state='attached', timeout=120_000)
    if width < 1000: page.keyboard.press('Control+B')  # the file list, which leaves no room
    return page

def menu(page, *names):
    page.click(f'.lm-MenuBar-item:has-text("{names[0]}")')
    page.click(f'.lm-Menu-item:has(.lm-Menu-itemLabel:text-is("{names[1]}"))')

def run_all(page):
    menu(page, 'Run', 'Run All Cells')
    wait_for(page, 30, lambda: any('*' in p for p in prompts(page)))

def reading(page):
    "What the dashboard shows: percent of tokens, chunks done, GiB of the process; None while there is none."
    now, text = page.evaluate("""() => { const c = document.querySelector('.coderank-card'), b = c && c.querySelector('[role=progressbar]');
                                         return b ? [b.getAttribute('aria-valuenow'), c.innerText] : [null, ''] }""")
    done, gib = re.search(r'([\d,]+) / [\d,]+\s*chunks', text), re.search(r'([\d.]+) GiB in use', text)
    return (float(now), int(done[1].replace(',', '')), float(gib[1]) if gib else 0) if done else None

def shoot(page, name):
    "Keep a screenshot with the dashboard, or what it left behind, in view."
    spot = page.query_selector('.coderank-card, .jp-OutputArea-output [role=progressbar]')
    if spot: spot.evaluate('e => e.scrollIntoView({block: "start"})')
    page.wait_for_timeout(300)
    page.screenshot(path=SHOTS/f'{name}.png')

def wait_for(page, seconds, condition):
    end = time.time() + seconds
    while time.time() < end:
        if x := condition(): return x
        page.wait_for_timeout(250)
    page.screenshot(path=SHOTS/'late.png')
    raise AssertionError(f'not within {seconds} s; output/screenshots/late.png shows the page')

def prompts(page):
    "Of the cells whose code is shown: a folded one has no number to read."
    shown = page.query_selector_all('.jp-CodeCell:not(:has(.jp-InputPlaceholder)) .jp-InputPrompt')
    return [p.inner_text() for p in shown]
def all_executed(page): return all(re.search(r'\[\d+\]', p) for p in prompts(page))
def errors(page): return page.query_selector_all('[data-mime-type="application/vnd.jupyter.stderr"], .jp-RenderedText[data-mime-type="application/vnd.jupyter.error"]')

def watch(page, most=240):
    "Readings while the run is on, until the dashboard is gone."
    seen = [wait_for(page, most, lambda: reading(page))]
    end = time.time() + most
    while time.time() < end and (r := reading(page)):
        if r != seen[-1]: seen.append(r)
        page.wait_for_timeout(400)
    return seen

def test_run_all_light_and_wide(lab, chromium):
    put_notebook(lab[1], 'wide.ipynb', INPUT='small_corpus')
    page = opened(chromium, lab, 'wide.ipynb')
    run_all(page)
    wait_for(page, 120, lambda: (r := reading(page)) and r[0] > 1)
    shoot(page, 'light-1300-start')
    wait_for(page, 240, lambda: reading(page)[0] > 45)
    shoot(page, 'light-1300-middle')
    seen = watch(page)
    wait_for(page, 120, lambda: all_executed(page))
    shoot(page, 'light-1300-end')
    percents, chunks, gibs = zip(*seen, strict=False)
    assert len(set(percents)) > 3 and list(percents) == sorted(percents) and list(chunks) == sorted(chunks)
    assert all(g > .05 for g in gibs if g) and len(set(gibs)) > 1, gibs
    text = page.inner_text('.jp-Notebook')
    assert 'Done after' in text and 'Time by phase' in text and 'Nothing was skipped.' in text
    assert page.eval_on_selector_all('.jp-OutputArea-output img', 'es => es.length') >= 5
    assert not page.query_selector('.coderank-card, .coderank-plain') and not errors(page)
    search_in(page)
    page.close()

def found(page):
    "What stands below the search box."
    return ' '.join(e.inner_text() for e in page.query_selector_all('.coderank-results'))

def ask(page, question):
    box = page.locator('.coderank-query input')
    box.fill(question)
    box.press('Enter')

def search_in(page):
    "Type, filter, click through."
    page.locator('.coderank-query').scroll_into_view_if_needed()
    ask(page, 'collection of points')
    wait_for(page, 60, lambda: '5. ' in found(page))
    before = found(page)
    assert page.locator('.coderank-results mark').count() > 0 and 'part0/' in before and 'part1/' in before
    subdirs = page.locator('.coderank-subdir select')
    names = [label.partition('(')[0].strip() for label in subdirs.locator('option').all_text_contents()]  # with how many pieces
    subdirs.select_option(index=names.index('part1'))
    wait_for(page, 30, lambda: found(page) != before and '1. ' in found(page))
    assert 'part1/' in found(page) and 'part0/' not in found(page)
    whole = page.locator('.coderank-results details').first
    whole.locator('summary').click()
    assert len(whole.locator('pre').inner_text()) > 320
    page.locator('.coderank-query').scroll_into_view_if_needed()
    page.wait_for_timeout(300)
    page.screenshot(path=SHOTS/'light-1300-search.png')
    ask(page, '???')
    wait_for(page, 30, lambda: 'no letter' in found(page))
    ask(page, '<img src=x onerror=alert(1)>')
    wait_for(page, 30, lambda: '1. ' in found(page) or 'Nothing' in found(page))
    assert not page.query_selector('.coderank-results img') and not errors(page)

def test_stop_button_dark_and_narrow(lab, chromium):
    out = lab[1]/'files/output/small_corpus_embeddings'
    shutil.rmtree(out, ignore_errors=True)
    put_notebook(lab[1], 'narrow.ipynb', INPUT='small_corpus')
    page = opened(chromium, lab, 'narrow.ipynb', width=700, dark=True)
    run_all(page)
    wait_for(page, 240, lambda: (r := reading(page)) and r[0] > 30)
    shoot(page, 'dark-700-middle')
    page.click('[data-command="notebook:interrupt-kernel"], button[title^="Interrupt the kernel"], jp-button[title^="Interrupt the kernel"]')
    wait_for(page, 60, lambda: 'Interrupted after' in page.inner_text('.jp-Notebook'))
    assert 'goes on from there' in page.inner_text('.jp-Notebook')
    shoot(page, 'dark-700-stopped')
    wait_for(page, 60, lambda: not any('*' in p for p in prompts(page)))
    run_all(page)
    wait_for(page, 120, lambda: reading(page))
    watch(page)
    wait_for(page, 120, lambda: all_executed(page))
    shoot(page, 'dark-700-end')
    events, _ = read_metrics(out/'metrics.jsonl')
    assert [e['state'] for e in events if e.name == 'end'] == ['Interrupted', 'Done']
    batches = [[e for e in run if e.name == 'batch'] for run in split_runs(events)]
    first, second = filter(None, batches)
    assert second[0]['all_tokens'] == first[0]['all_tokens'] - first[-1]['tokens'], 'the second run did not begin where the first stopped'
    s = json.loads((out/'small_corpus_embedding_summary.json').read_text())
    assert s['total_embeddings'] == CHUNKS and s['models'][0]['resumed']
    page.close()

def test_two_workers_end_clean(lab, chromium, tiny):
    import nbformat
    files, out = lab[1]/'files', lab[1]/'files/two'
    cells = ['from coderank_qdrant.all import *', f"run = embed_corpus('output/small_corpus', 'two', profile={str(tiny)!r}, devices='cpu,cpu')", 'run.state']
    kernel = dict(kernelspec=dict(name='python3', display_name='Python 3', language='python'))
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in cells], metadata=kernel), files/'two.ipynb')
    page = opened(chromium, lab, 'two.ipynb')
    run_all(page)
    wait_for(page, 120, lambda: all_executed(page))
    assert "'done'" in page.inner_text('.jp-Notebook') and not errors(page)
    shoot(page, 'light-1300-two-workers')
    pids = {e['pid'] for e in map(json.loads, (out/'metrics.jsonl').read_text().splitlines()) if e['event'] == 'batch'}
    assert len(pids) == 2 and all_gone(pids)
    page.close()
