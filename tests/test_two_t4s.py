"The command on made-up T4s."
import json
from pathlib import Path
import numpy as np, pytest
from conftest import ROOT, also, make_nomic_bert, make_qwen2, read_jsonl, run_cli, summary_of, write_file
from pretend_t4 import ask, hold, read_log

MIB = 2**20
SPARE = 2048  # MiB beside the small models here, since transformers leaves 1.2 GiB of a card alone
LONGEST = 512  # tokens of a row, so that measuring is soon done

@pytest.fixture(scope='module')
def code_rank(tmp_path_factory):
    folder = tmp_path_factory.mktemp('models')/'CodeRankEmbed'
    folder.mkdir()
    return make_nomic_bert(folder, hidden=128, layers=8, heads=2, inner=64)

@pytest.fixture(scope='module')
def few(texts, tmp_path_factory):
    "Enough chunks that each card has a batch, and two of one text."
    root = tmp_path_factory.mktemp('corpora')/'few'
    some = sorted(texts[::5], key=len)[:45]
    for i in range(3): write_file(root, f'part/doc{i}_chunks.json', some[15*i:15*i+15] + some[:1], f'doc{i}.md')
    return root

@pytest.fixture(scope='module')
def on_cpu(few, code_rank, tmp_path_factory):
    "What the processor makes of it."
    from coderank_qdrant.pipeline import embed_corpus
    out = tmp_path_factory.mktemp('on_cpu')/'out'
    embed_corpus(few, out, profile=str(code_rank), devices='cpu', max_length=LONGEST)
    return read_jsonl(out/'few_embeddings.jsonl')

def embed(few, out, model, env, *more):
    p = run_cli(few, '--out', out, '--profile', model, '--max_length', LONGEST, *more, env=env, cwd=ROOT)
    assert p.returncode == 0, p.stderr
    return p.stderr

def batches(out): return [e for e in read_jsonl(out/'metrics.jsonl') if e['event'] == 'batch']
def devices_of(out): return {e['device'] for e in batches(out)}
def read_json(env, name): return json.loads((Path(env['XDG_CACHE_HOME'])/'coderank_qdrant'/name).read_text())

def same(out, other, least=.99):
    "The same chunks in the same order, with nearly the same vectors, and none quarantined."
    mine = read_jsonl(out/'few_embeddings.jsonl')
    assert [e['id'] for e in mine] == [e['id'] for e in other]
    assert not summary_of(out, 'few')['quarantined']
    return min(np.dot(a['embedding'], b['embedding']) for a,b in zip(mine, other, strict=False)) > least

def loads_of(env):
    "For each process that loaded a model: what it loaded, and the cards on which it computed."
    busy = lambda p: [i for i,c in enumerate(p['cards']) if c['operations'] > 100]
    return sorted((busy(p), p['loads']) for p in read_log(env) if p['loads'])

def test_both_cards_work_and_each_loads_once(cards, few, code_rank, on_cpu, tmp_path):
    env, out = cards(), tmp_path/'out'
    embed(few, out, code_rank, env)
    assert devices_of(out) == {'cuda:0', 'cuda:1'} and same(out, on_cpu)
    assert loads_of(env) == [([0], [str(code_rank)]), ([1], [str(code_rank)])]

def test_a_batch_that_does_not_fit_is_halved(cards, few, code_rank, on_cpu, tmp_path):
    env, out = cards(faults=[dict(within='coderank_qdrant.workers:begin', call=1, times=1, once=True)]), tmp_path/'out'
    said = embed(few, out, code_rank, env, '--devices', 'cuda:0,cuda:1')
    assert 'did not fit; trying' in said and summary_of(out, 'few')['oom_events'] == 1
    assert devices_of(out) == {'cuda:0', 'cuda:1'} and same(out, on_cpu)

@pytest.mark.slow
def test_one_card_with_the_tests_own_faults(cards, faulty, few, code_rank, on_cpu, tmp_path):
    env, out = cards('T4', env=faulty('oom:1')), tmp_path/'out'
    said = embed(few, out, code_rank, env)
    assert 'did not fit; trying' in said and devices_of(out) == {'cuda:0'} and same(out, on_cpu)
    assert loads_of(env) == [([0], [str(code_rank)])]

def test_a_model_split_over_the_cards(cards, tmp_path):
    folder = make_qwen2(tmp_path/'nomic-embed-code', hidden=448, layers=8, inner=1024)
    got = ask(cards(), f'''
import numpy as np
from pathlib import Path
from coderank_qdrant.encoder import load_encoder
from coderank_qdrant.models import folder_card

folder = Path({str(folder)!r})
model = load_encoder(folder_card(folder), folder, 'cuda:0+cuda:1', 'fp16')
held = [cuda.memory_allocated(i) for i in range(2)]
print(json.dumps([model.embed([np.arange(9)]).shape, held]))''')
    assert got[0] == [1, 448] and min(got[1]) > .9 * max(got[1]), got

# Where a model goes

def way_of(out): return summary_of(out, 'few')['models'][0]['placement']

def total_for(folder, least, most):
    """MiB of a card that has room for the first way, and not for the second, beside `SPARE`; bytes that the first takes.
    A way is (kind, precision)."""
    from coderank_qdrant.devices import CONTEXT, assumed_devices
    from coderank_qdrant.memory import WORKSPACE, usual_batch
    from coderank_qdrant.models import count_weights
    from coderank_qdrant.placement import make_placement
    cards, weights = assumed_devices('T4x2'), count_weights(folder)
    batch = usual_batch(LONGEST, True)
    need = [make_placement(kind, precision, weights, cards, folder, batch).need for kind,precision in (least, most)]
    assert need[0] + 2**22 < need[1]
    return (sum(need) // 2 + CONTEXT) // MIB + SPARE - 128, need[0] - WORKSPACE

@pytest.fixture(scope='module')
def qwens(tmp_path_factory):
    "Small models of the seven-billion layout: with a large table of token embeddings, and with a small one."
    folder = tmp_path_factory.mktemp('qwens')
    shape = dict(hidden=448, layers=4, inner=1024)
    return {name: make_qwen2(folder/name, vocab=vocab, **shape) for name,vocab in (('large-table', 16_000), ('small-table', 1024))}

WAYS = {
    'host': ('large-table', ('host', 'fp16'), ('copy', 'fp16'), (), 'a copy on each of cuda:0, cuda:1 in fp16'),
    'int8': ('small-table', ('copy', 'int8'), ('host', 'fp16'), (), 'a copy on each of cuda:0, cuda:1 in int8'),
    'split': ('small-table', ('split', 'fp16'), ('host', 'fp16'), ('--precision', 'fp16'), 'one copy over cuda:0+cuda:1 in fp16')}

@pytest.mark.parametrize('name', [also(name) if name == 'split' else name for name in WAYS])
def test_the_best_way_that_fits(cards, few, qwens, tmp_path, name):
    model, least, most, options, says = WAYS[name]
    folder, out = qwens[model], tmp_path/'out'
    total, counted = total_for(folder, least, most)
    env = cards(total=total, put={'coderank_qdrant.memory:WORKSPACE': SPARE * MIB})
    embed(few, out, folder, env, '--verify', '10', *options)
    summary, log = summary_of(out, 'few'), read_log(env)
    assert way_of(out).startswith(says) and ('token embeddings in host memory' in way_of(out)) == (name == 'host')
    assert summary['verified'][model] > (.9999 if name == 'int8' else .99999) and not summary['quarantined']
    assert summary['oom_events'] == 0 and not any(c['ooms'] for p in log for c in p['cards'])
    assert {c for busy,_ in loads_of(env) for c in busy} == {0, 1}
    assert max(c['peak'] for p in log for c in p['cards']) < counted + 16 * MIB, 'the count that the plan is made from holds'

def test_a_way_that_runs_out_of_memory_gives_way_to_the_next(cards, few, code_rank, on_cpu, tmp_path):
    env, out = cards(faults=[dict(within='coderank_qdrant.loading:load_body', call=1, once=True)]), tmp_path/'out'
    said = embed(few, out, code_rank, env)
    assert 'does not fit: ' in said and 'token embeddings in host memory' in way_of(out) and same(out, on_cpu)

def test_a_model_that_fits_nowhere_is_one_line(cards, few, code_rank, tmp_path):
    env = cards(faults=[dict(within='coderank_qdrant.loading:load_body')])
    p = run_cli(few, '--out', tmp_path/'out', '--profile', code_rank, env=env, cwd=ROOT)
    line = p.stderr.splitlines()[-1]
    assert p.returncode == 2 and 'Traceback' not in p.stderr
    each = 'A copy on each of cuda:0, cuda:1 in'
    for way in f'{each} fp16', f'{each} int8', 'token embeddings in host memory', 'One copy over cuda:0+cuda:1 in fp16':
        assert f'{way}' in line and line.count('ran out of memory') == 4 and len(line) < 1500, line

# What is measured

CALIBRATED = {'coderank_qdrant.preparing:WORTH_MEASURING': 0, 'coderank_qdrant.calibration:BUDGETS': {True: (1024, 2048, 4096)}}

def test_calibration_on_cards_holds_and_is_kept(cards, few, code_rank, on_cpu, tmp_path):
    env, out = cards(put=CALIBRATED), tmp_path/'out'
    embed(few, out, code_rank, env)
    assert summary_of(out, 'few')['models'][0]['batch_budget'] in (1024, 2048, 4096) and same(out, on_cpu)
    events = read_jsonl(out/'metrics.jsonl')
    predicted = next(e['peaks'] for e in events if e['event'] == 'plan')
    reached = {d: max(e['memory']['peak'] for e in events if e['event'] == 'batch' and e['device'] == d) for d in predicted}
    assert all(reached[d] <= 1.05 * predicted[d] for d in reached), (reached, predicted)
    kept = read_json(env, 'calibrations.json')
    embed(few, tmp_path/'again', code_rank, env)
    assert kept == read_json(env, 'calibrations.json'), 'nothing is measured twice'
    assert [e['batch_tokens'] for e in batches(tmp_path/'again')] and same(tmp_path/'again', on_cpu)

def test_out_of_memory_in_a_sweep_is_its_limit(cards, few, code_rank, on_cpu, tmp_path):
    fault = dict(within='coderank_qdrant.calibration:sweep', mib=.9)
    env, out = cards('T4', put=CALIBRATED, faults=[fault]), tmp_path/'out'
    embed(few, out, code_rank, env)
    assert summary_of(out, 'few')['models'][0]['batch_budget'] < 4096 and same(out, on_cpu)
    assert sum(p['counts'].get('faults', 0) for p in read_log(env)) > 0

# Cards that will not do

def test_a_P100_is_named_before_anything_is_loaded(cards, few, code_rank, tmp_path):
    env = cards('P100')
    p = run_cli(few, '--out', tmp_path/'out', '--profile', code_rank, env=env, cwd=ROOT)
    assert p.returncode == 2 and 'Traceback' not in p.stderr and not loads_of(env) and not (tmp_path/'out').exists()
    assert 'Tesla P100-PCIE-16GB of compute capability 6.0' in p.stderr and 'choose GPU T4 x2' in p.stderr

def test_a_busy_card_is_named_and_changes_no_precision(cards, few, code_rank, tmp_path):
    env = cards()
    hold(env, 1, 14_700)
    p = run_cli(few, '--out', tmp_path/'out', '--profile', code_rank, env=env, cwd=ROOT)
    assert p.returncode == 2 and 'Traceback' not in p.stderr
    assert 'cuda:1 (Tesla T4) has 14.' in p.stderr and 'in use by another program' in p.stderr

def test_a_worker_that_is_killed_is_replaced(cards, few, code_rank, on_cpu, tmp_path):
    fault = dict(within='coderank_qdrant.workers:begin', do='kill', call=1, once=True)
    env, out = cards(faults=[fault]), tmp_path/'out'
    said = embed(few, out, code_rank, env, '--devices', 'cuda:0')  # with two, the other card may be done before
    assert 'SIGKILL' in said and same(out, on_cpu)
    assert [cards for cards,_ in loads_of(env)] == [[0], [0]]

def test_a_worker_that_is_killed_while_it_loads_is_started_again(cards, few, code_rank, on_cpu, tmp_path):
    env, out = cards(faults=[dict(within='coderank_qdrant.loading:load_body', do='kill', call=1, once=True)]), tmp_path/'out'
    said = embed(few, out, code_rank, env)
    assert 'SIGKILL). It is started again.' in said and same(out, on_cpu)
    assert way_of(out).startswith('a copy on each of cuda:0, cuda:1 in fp16') and 'host memory' not in way_of(out)
    assert not summary_of(out, 'few')['models'][0]['fallback_from']

def test_a_question_beside_a_run_goes_where_there_is_room(cards, few, code_rank, tmp_path):
    env, out = cards(), tmp_path/'out'
    embed(few, out, code_rank, env)
    made = run_cli(out, '--location', tmp_path/'index', command='coderank_index', module='index', env=env, cwd=ROOT)
    assert made.returncode == 0, made.stderr
    before = {p['pid'] for p in read_log(env)}
    hold(env, 0, 14_000)
    asked = run_cli('How are vectors stored?', '--location', tmp_path/'index', '--model', code_rank, command='coderank_search', module='search', env=env, cwd=ROOT)
    assert asked.returncode == 0, asked.stderr
    mine, = (p for p in read_log(env) if p['pid'] not in before and p['loads'])
    assert [c['operations'] > 100 for c in mine['cards']] == [False, True]

# The true width

@pytest.fixture(scope='module', params=['CodeRankLLM', 'nomic-embed-code'])
def wide(request, tmp_path_factory):
    "Eight layers of the two seven-billion layouts."
    shape = dict(layers=8, inner=18944, dtype='bfloat16', shards='2GB', causal=request.param == 'CodeRankLLM', sentence=request.param != 'CodeRankLLM')
    return make_qwen2(tmp_path_factory.mktemp('wide')/request.param, **shape)

@pytest.mark.slow
@pytest.mark.parametrize('device,precision,table,least', [
    ('cuda:0', 'fp16', True, .99999), ('cuda:0', 'fp16', False, .99999), ('cuda:0', 'int8', True, .9999), ('cuda:0+cuda:1', 'fp16', True, .99999)])
def test_a_row_of_the_true_width_is_itself_in_any_batch(cards, wide, device, precision, table, least):
    got = ask(cards(), f'''
import numpy as np
from pathlib import Path
from coderank_qdrant.encoder import load_encoder
from coderank_qdrant.models import MODELS

folder = Path({str(wide)!r})
enc = load_encoder(MODELS[folder.name], folder, {device!r}, {precision!r}, {table})
rows = [(np.arange(n) * 37 + 5) % 900 for n in (5, 40, 23)]
alone = np.concatenate([enc.embed([row]) for row in rows])
peaks = [cuda.max_memory_allocated(i) for i in range(2)]
print(json.dumps([float((enc.embed(rows) * alone).sum(1).min()), peaks]))''', timeout=900)
    assert got[0] > least, got
