"What a run shows: nothing from a corpus acts in a page, no JavaScript is needed, a log reads as a log, and it costs next to nothing."
import json, re, shutil, sys, time
import pytest
from conftest import REAL, ROOT, read_jsonl, run_cli, summary_of, write_file
from coderank_qdrant.dashboard import dashboard_html, show_phases
from coderank_qdrant.events import WORKER_STATES, Event, event_of, read_metrics, split_runs
from coderank_qdrant.report import Report, report_figure, run_report, skipped_html
from coderank_qdrant.show import BAD, as_html
from coderank_qdrant.view import view_of

sys.path.insert(0, str(ROOT/'nbs/_site'))
CHROMIUM = shutil.which('chromium') or shutil.which('chromium-browser') or shutil.which('google-chrome')
needs_chromium = pytest.mark.skipif(not CHROMIUM, reason='no Chromium on this machine: pages were not opened')
EVIL = '<script>window.hit=1</script><img src=x onerror="window.hit=2"><svg onload=window.hit=3>"\'>'

@pytest.fixture(scope='module')
def chromium():
    sync = pytest.importorskip('playwright.sync_api').sync_playwright
    with sync() as p:
        b = p.chromium.launch(executable_path=CHROMIUM, args=['--no-sandbox'])
        yield b
        b.close()

def notebook(*sources):
    v4 = pytest.importorskip('nbformat').v4
    return v4.new_notebook(cells=[v4.new_code_cell(s) for s in sources], metadata=dict(kernelspec=dict(name='python3', display_name='python3', language='python')))

def executed(nb, folder):
    nbformat = pytest.importorskip('nbconvert') and pytest.importorskip('nbformat')
    from execute import execute
    nbformat.write(nb, folder/'nb.ipynb')
    return execute(folder/'nb.ipynb', folder)

def evil_corpus(root):
    "Texts, file names, folders and metadata that would act in a page that does not escape them."
    for i in range(3):
        name = f'<img src=x onerror=window.hit={i+4}>'
        f = root/f'{name} docs'/f'{name}{i}_chunks.json'
        f.parent.mkdir(parents=True, exist_ok=True)
        f.write_text(json.dumps(dict(chunks=[dict(content=f'{EVIL} {i} {j} ' * 40, metadata={'source': f'{name}.md', 'title': EVIL, EVIL: EVIL}) for j in range(12)] + [dict(content='')])))
    (root/f'{EVIL.replace("/", "")}_chunks.json').write_text('{"chunks": [')
    return root

@needs_chromium
def test_nothing_of_a_corpus_acts_in_the_page(tmp_path, tiny, chromium):
    from execute import page
    corpus, model = evil_corpus(tmp_path/'corpus'), tmp_path/'<img src=x onerror=window.hit=9>'
    shutil.copytree(tiny, model)
    nb = json.loads((ROOT/'nbs/kaggle.ipynb').read_text())
    for c in nb['cells']:
        s = ''.join(c['source']).replace("INPUT = 'qdrant_ecosystem'", f'INPUT = {str(corpus)!r}').replace("PROFILE = 'auto'", f'PROFILE = {str(model)!r}')
        c['source'] = s
    import nbformat
    live = 'import coderank_qdrant.display as p; p.SHORT = 0'  # leave the whole dashboard behind, however short the run
    at = next(i for i,c in enumerate(nb['cells']) if 'from coderank_qdrant.all import' in c['source'])
    nb['cells'].insert(at + 1, nbformat.v4.new_code_cell(live))
    made = executed(nbformat.from_dict(nb), tmp_path)
    (tmp_path/'page.html').write_text(page(made))
    p = chromium.new_page()
    p.goto((tmp_path/'page.html').as_uri())
    p.wait_for_timeout(500)
    assert p.evaluate('window.hit') is None
    text = p.inner_text('body')
    assert 'onerror=window.hit=9' in text and 'window.hit=1' in text and 'not json' in text and 'Done after' in text
    assert not p.query_selector('[onerror], [onload]')
    p.close()

def evil_events():
    "As a file has them."
    yield dict(event='start', time=1., collection=EVIL, devices=[dict(device='cuda:0', name=EVIL, total=2**34)])
    yield dict(event='plan', time=2., text=EVIL, models=[EVIL], peaks={'cuda:0': 2**33})
    for i in range(1, 40):
        yield dict(event='batch', time=2.+i, device='cuda:0', model=EVIL, rows=4, length=9, batch_tokens=30, took=.9, done=i, total=40, new=i, tokens=30*i, all_tokens=1200,
                   seconds=float(i), memory=dict(used=2**32, reserved=2**33, peak=2**33, total=2**34), counters=dict(cached=0))
    yield dict(event='retry', time=42., device='cuda:0', rows=4, reason=EVIL, text=EVIL)
    yield dict(event='quarantine', time=43., ids=[EVIL], n=1, reason=EVIL)
    yield dict(event='worker', time=44., device='cuda:0', pid=1, state='failed', text=EVIL)
    yield dict(event='phase', time=45., phase=EVIL)
    yield dict(event='end', time=46., state=EVIL, text=EVIL)

@needs_chromium
def test_nothing_of_an_event_acts_in_the_page(chromium):
    events, bad = [event_of(e) for e in evil_events()], [dict(id=EVIL, reason=EVIL)]
    v = view_of(events)
    r = Report(v, dict(problems=[dict(path=EVIL, kind=EVIL, detail=EVIL)], quarantined=bad), [v])
    p = chromium.new_page()
    p.set_content(dashboard_html(v) + r.html + skipped_html(v) + as_html(show_phases(view_of(events[:-1]))))
    p.wait_for_timeout(300)
    assert p.evaluate('window.hit') is None and not p.query_selector('script, [onerror], [onload]')
    assert p.inner_text('body').count('window.hit=3') > 10
    assert report_figure(v)._repr_png_()[:4] == b'\x89PNG'
    p.close()

@pytest.mark.parametrize('state', WORKER_STATES)
def test_a_worker_in_trouble_is_red(state):
    events = [Event('start', 1., facts=dict(devices=[dict(worker='cpu 1', device='cpu'), dict(worker='cpu 2', device='cpu')])),
              Event('worker', 2., 'cpu 2', state, dict(device='cpu', state=state))]
    v = view_of(events)
    assert list(v.workers) == ['cpu 1', 'cpu 2']
    assert (BAD in dashboard_html(v)) == (state in ('failed', 'dropped'))

def test_every_state_that_a_worker_tells_is_known():
    told = (ROOT/'coderank_qdrant/parallel.py').read_text()
    assert all(f"'{state}'" in told for state in WORKER_STATES)

def test_a_file_of_an_earlier_version_still_gives_its_report(tmp_path):
    "No worker is named there; two processes on one CPU were told apart by their numbers."
    lines = [dict(event='start', time=1., collection='c', devices=[dict(device='cpu', name='CPU', total=9)])]
    for i in range(1, 9):
        lines.append(dict(event='batch', time=1. + i, device='cpu', pid=70 + i % 2, rows=1, length=9, tokens=9*i, all_tokens=72, done=i,
                          total=8, new=i, seconds=float(i), rss=2**20))
    lines.append(dict(event='end', time=10., state='Done', text='Done: 8 embeddings'))
    (tmp_path/'metrics.jsonl').write_text(''.join(json.dumps(l) + '\n' for l in lines))
    v = run_report(tmp_path).view
    assert v.state == 'Done' and [w.batches for name,w in v.workers.items() if name in ('cpu 1', 'cpu 2')] == [4, 4]

RUN = "from coderank_qdrant.all import *", "run = embed_corpus('corpus', 'out', profile='offline')", "run_report('out')"

KEEP = 'import coderank_qdrant.display as p\nmade, make = [], p.notebook_sink\ndef kept(*a, **k): made.append(make(*a, **k)); return made[-1]\np.notebook_sink = kept'
COST = "(made[0].spent, made[0].view.counts['seconds'], len(made[0].view.workers['cpu'].curve), list(made[0].view.workers))"

@pytest.fixture(scope='module')
def ran(tmp_path_factory, texts):
    "A notebook with a run of some ten seconds or more, executed."
    folder = tmp_path_factory.mktemp('ran')
    write_file(folder/'corpus', 'docs/a_chunks.json', texts[:100])
    return executed(notebook(RUN[0], KEEP, *RUN[1:], COST), folder)

@needs_chromium
def test_executed_notebook_reads_without_javascript(ran, tmp_path, chromium):
    from execute import page
    assert not ran.metadata.get('widgets') and 'widget-view' not in json.dumps(ran)
    (tmp_path/'page.html').write_text(page(ran))
    context = chromium.new_context(java_script_enabled=False)
    p = context.new_page()
    p.goto((tmp_path/'page.html').as_uri())
    text = p.inner_text('body')
    for said in 'Done after', 'GiB in use', 'Time by phase', 'Where the time went', 'Devices: memory predicted and measured', 'Nothing was skipped.': assert said in text, said
    assert p.locator('img').count() == 2 and p.locator('table.coderank').count() >= 4
    assert all(i.bounding_box()['width'] > 400 for i in p.locator('img').all())
    context.close()

def test_a_dashboard_costs_less_than_a_hundredth(ran):
    spent, seconds, points, workers = eval(ran.cells[-1].outputs[0]['data']['text/plain'])
    assert workers == ['cpu'], 'one worker is one row'
    assert points > 10 and 0 < spent < .01 * seconds + .1, (spent, seconds)  # the first update may take long; the next then waits a hundred times as long

def test_without_widgets_the_same_facts_are_there(tmp_path, texts):
    write_file(tmp_path/'corpus', 'docs/a_chunks.json', texts[:20])
    nb = executed(notebook("import os; os.environ['CODERANK_WIDGETS'] = '0'", *RUN[:2]), tmp_path)
    assert 'Done after' in json.dumps(nb) and 'widget-view' not in json.dumps(nb)

def test_a_failed_run_says_so_and_how_to_go_on(tmp_path, texts):
    write_file(tmp_path/'corpus', 'docs/a_chunks.json', texts[:20])
    broken = "import coderank_qdrant.pipeline as p\ndef fail(*a): raise OSError('disk full')\np.embed_model = fail"
    nb = notebook(RUN[0], broken, RUN[1])
    nb.cells[-1].metadata['tags'] = ['raises-exception']
    shown = json.dumps(executed(nb, tmp_path))
    assert 'Failed after' in shown and 'goes on from there' in shown and 'disk full' in shown

def test_a_log_reads_as_a_log(tmp_path, texts):
    corpus = tmp_path/'corpus'
    write_file(corpus, 'docs/a_chunks.json', texts[:60])
    (corpus/'docs/b\x1b[07_chunks.json').write_text('{"chunks": [')
    p = run_cli(corpus, '--profile', 'offline', '--out', tmp_path/'out')
    assert p.returncode == 0 and not re.search(r'[\x00-\x09\x0b-\x1f\x7f]', p.stderr), repr(p.stderr)
    lines = p.stderr.splitlines()
    progress = [l for l in lines if re.fullmatch(r'\d+/\d+ chunks \(\d+\.\d%\) \u00b7 \d+\.\d chunks/s \u00b7 ETA \d+\.\d min', l)]
    seconds = [e.time for e in read_metrics(tmp_path/'out/metrics.jsonl')[0]]
    assert 1 <= len(progress) <= (seconds[-1] - seconds[0]) / 10 + 2
    assert progress[-1].startswith('60/60') and lines[-1].startswith('Done') and lines[0].startswith('Read')

def test_a_batch_session_has_lines_and_a_report(tmp_path, texts):
    write_file(tmp_path/'corpus', 'docs/a_chunks.json', texts[:10])
    nb = executed(notebook("import os; os.environ['KAGGLE_KERNEL_RUN_TYPE'] = 'Batch'", RUN[0], 'import coderank_qdrant.display as p; p.SHORT = 0', *RUN[1:]), tmp_path)
    outputs = nb.cells[3].outputs
    log = ''.join(o.text for o in outputs if o.output_type == 'stream' and o.name == 'stdout')
    assert '10/10 chunks (100.0%)' in log and 'widget-view' not in json.dumps(nb)
    assert [k for o in outputs for k in o.get('data', {}) if k in ('text/html', 'image/png')] == ['text/html', 'image/png']

@pytest.mark.slow
@pytest.mark.skipif(not REAL.is_dir(), reason='the reference corpus does not lie beside the project')
def test_stop_after_a_minute_on_the_real_corpus(tmp_path):
    args, name, began = (REAL, '--profile', 'offline', '--out', tmp_path/'out'), 'qdrant_ecosystem', time.time()
    p = run_cli(*args, '--stop_after', '1')
    assert p.returncode == 0 and 'Stopped after 1' in p.stderr and 50 < time.time() - began < 90
    assert not (tmp_path/'out'/f'{name}_embeddings.jsonl').exists()
    states = [view_of(r).state for r in split_runs(read_metrics(tmp_path/'out/metrics.jsonl')[0])]
    p = run_cli(*args, timeout=3000)
    s = summary_of(tmp_path/'out', name)
    assert (states, p.returncode, s['total_embeddings']) == (['Stopped'], 0, 3872) and s['models'][0]['resumed']
    assert [run_report(tmp_path/'out', i).view.state for i in (0, 1)] == ['Stopped', 'Done']
    assert len(read_jsonl(tmp_path/'out'/f'{name}_embeddings.jsonl')) == 3872
