"The command on made-up T4s."
import numpy as np, pytest
from conftest import ROOT, make_nomic_bert, make_qwen2, read_jsonl, run_cli, summary_of, write_file
from pretend_t4 import ask, read_log

@pytest.fixture(scope='module')
def code_rank(tmp_path_factory):
    folder = tmp_path_factory.mktemp('models')/'CodeRankEmbed'
    folder.mkdir()
    return make_nomic_bert(folder, hidden=128, layers=8, heads=2, inner=64)

@pytest.fixture(scope='module')
def few(texts, tmp_path_factory):
    "Enough chunks that each card has a batch, and two of one text."
    root = tmp_path_factory.mktemp('corpora')/'few'
    some = sorted(texts[::5], key=len)[:120]
    for i in range(3): write_file(root, f'part/doc{i}_chunks.json', some[40*i:40*i+40] + some[:1], f'doc{i}.md')
    return root

@pytest.fixture(scope='module')
def on_cpu(few, code_rank, tmp_path_factory):
    "What the processor makes of it."
    from coderank_qdrant.pipeline import embed_corpus
    out = tmp_path_factory.mktemp('on_cpu')/'out'
    embed_corpus(few, out, profile=str(code_rank), devices='cpu')
    return read_jsonl(out/'few_embeddings.jsonl')

def embed(few, out, model, env, *more):
    p = run_cli(few, '--out', out, '--profile', model, *more, env=env, cwd=ROOT)
    assert p.returncode == 0, p.stderr
    return p.stderr

def devices_of(out): return {e['device'] for e in read_jsonl(out/'metrics.jsonl') if e['event'] == 'batch'}

def same(out, other, least=.99):
    "The same chunks in the same order, with nearly the same vectors, and none put aside."
    mine = read_jsonl(out/'few_embeddings.jsonl')
    assert [e['id'] for e in mine] == [e['id'] for e in other]
    assert not summary_of(out, 'few')['quarantined']
    return min(np.dot(a['embedding'], b['embedding']) for a,b in zip(mine, other)) > least

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
    env, out = cards(faults=[dict(within='coderank_qdrant.parallel:begin', call=1, times=1, once=True)]), tmp_path/'out'
    said = embed(few, out, code_rank, env, '--devices', 'cuda:0,cuda:1')
    assert 'did not fit; trying' in said and summary_of(out, 'few')['oom_events'] == 1
    assert devices_of(out) == {'cuda:0', 'cuda:1'} and same(out, on_cpu)

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
from coderank_qdrant.models import *
folder = Path({str(folder)!r})
model = load_encoder(folder_card(folder), folder, 'cuda:0+cuda:1', 'fp16')
held = [cuda.memory_allocated(i) for i in range(2)]
print(json.dumps([model.embed([np.arange(9)]).shape, held]))''')
    assert got[0] == [1, 448] and min(got[1]) > .9 * max(got[1]), got
