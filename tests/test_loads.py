"Each model is loaded once: for the dry run, the run, the check of its vectors and the questions after it."
from collections import Counter
from dataclasses import replace
import numpy as np
import pytest
from conftest import all_gone, make_bert, write_file
from coderank_qdrant.index import index_run
from coderank_qdrant.memory import usual_batch
from coderank_qdrant.models import count_weights
from coderank_qdrant.pipeline import embed_corpus
from coderank_qdrant.placement import place_model
from coderank_qdrant.routing import PROFILES
from coderank_qdrant.search import search
from coderank_qdrant.teams import KEPT, release_models
import coderank_qdrant.distributed, coderank_qdrant.embedding, coderank_qdrant.pipeline, coderank_qdrant.questions, coderank_qdrant.workers

@pytest.fixture
def loads(monkeypatch):
    "How often each model was loaded in this process."
    counts = Counter()
    def counted(real):
        def load(card, *args, **kwargs):
            counts[card.name] += 1
            return real(card, *args, **kwargs)
        return load
    for module in coderank_qdrant.workers, coderank_qdrant.pipeline, coderank_qdrant.questions:
        monkeypatch.setattr(module, 'load_encoder', counted(module.load_encoder))
    yield counts
    release_models()

@pytest.fixture
def two_models(tmp_path, monkeypatch):
    "A profile with one model for code and one for docs, and a corpus for both."
    code, docs = make_bert(tmp_path/'models/small'), make_bert(tmp_path/'models/large', hidden=64, seed=1)
    third = make_bert(tmp_path/'models/third', hidden=48, seed=2)
    chains = dict(code=[str(code)], docs=[str(docs), str(third)], other=[str(third)])
    monkeypatch.setitem(PROFILES, 'two', chains)
    write_file(tmp_path/'c', 'src/a_chunks.json', [f'x = {i}' for i in range(20)], 'a.py')
    write_file(tmp_path/'c', 'docs/b_chunks.json', [f'Read page {i}.' for i in range(20)], 'b.md')
    return tmp_path

def narrow(monkeypatch, folder):
    "A processor with room for one model at a time."
    real = coderank_qdrant.distributed.find_devices
    models = [folder/'models/small', folder/'models/large']
    needs = [place_model(m.name, count_weights(m), real('cpu'), shape=m, batch=usual_batch(512, False)).need for m in models]
    few = sum(needs) - 1
    assert few > max(needs)
    monkeypatch.setattr(coderank_qdrant.distributed, 'find_devices', lambda spec='auto': tuple(replace(d, memory=few) for d in real(spec)))

def run_all(folder, profile='two', **options):
    "What the Kaggle notebook does: plan, run, index, ask."
    options = dict(profile=profile, keep=True, **options)
    planned = embed_corpus(folder/'c', folder/'out', dry_run=True, **options)
    run = embed_corpus(folder/'c', folder/'out', verify=5, **options)
    index_run(run, folder/'index', prune=True, recreate=True)
    return planned, run, search('Read page 7.', folder/'index', limit=3, models_dir=folder/'models')

def test_two_models_that_fit_beside_each_other_are_loaded_once_each(two_models, loads):
    pytest.importorskip('qdrant_edge')
    _, run, hits = run_all(two_models)
    assert loads == {'small': 1, 'large': 1}
    assert set(run.verified) == {'small', 'large'} and min(run.verified.values()) > .99999
    assert run.summary['verified'] == run.verified and not hits.notes
    first = run.jsonl.read_bytes()
    _, again, hits = run_all(two_models)
    assert loads == {'small': 1, 'large': 1}, 'nothing is computed and nothing loaded the second time'
    assert again.summary['computed'] == 0 and again.jsonl.read_bytes() == first and not hits.notes

def test_two_models_without_room_beside_each_other_take_turns(two_models, loads, monkeypatch, capsys):
    narrow(monkeypatch, two_models)
    options = dict(profile='two', keep=True, devices='cpu')
    embed_corpus(two_models/'c', two_models/'out', dry_run=True, **options)
    assert loads == {'small': 1} and 'Not tried, for want of room beside these: large' in capsys.readouterr().err
    run = embed_corpus(two_models/'c', two_models/'out', verify=5, **options)
    assert loads == {'small': 1, 'large': 1} and run.summary['total_embeddings'] == 40
    assert len(KEPT.loaded) == 1 and min(run.verified.values()) > .99999
    assert 'fallback_from' in run.summary['models'][0]

def test_a_model_that_fails_in_its_turn_is_replaced_for_its_whole_content(two_models, loads, monkeypatch):
    import torch
    def harm(model):
        with torch.no_grad(): model.embeddings.LayerNorm.weight[0] = float('nan')
    make_bert(two_models/'models/large', hidden=64, seed=1, change=harm)
    narrow(monkeypatch, two_models)
    run = embed_corpus(two_models/'c', two_models/'out', profile='two', devices='cpu')
    assert loads == {'small': 1, 'large': 1, 'third': 1} or loads == {'small': 2, 'large': 1, 'third': 1}
    by = {m['name']: m for m in run.summary['models']}
    assert set(by) == {'small', 'third'} and by['third']['fallback_from'].endswith('large')
    assert 'not finite' in by['third']['fallback_reason'] and run.summary['total_embeddings'] == 40
    assert not KEPT.loaded

def test_worker_processes_stay_for_the_next_call_and_end_when_released(tiny, tmp_path):
    write_file(tmp_path/'c', 'docs/b_chunks.json', [f'Read page {i}.' for i in range(20)], 'b.md')
    run = embed_corpus(tmp_path/'c', tmp_path/'out', profile=str(tiny), devices='cpu,cpu', keep=True)
    pids = [w.proc.pid for l in KEPT.loaded.values() for w in l.team]
    write_file(tmp_path/'c', 'docs/c_chunks.json', [f'Turn page {i}.' for i in range(20)], 'c.md')
    again = embed_corpus(tmp_path/'c', tmp_path/'out', profile=str(tiny), devices='cpu,cpu', keep=True, verify=3)
    assert [w.proc.pid for l in KEPT.loaded.values() for w in l.team] == pids and len(pids) == 2
    assert (run.summary['computed'], again.summary['computed']) == (20, 20) and again.verified['tiny-bert'] > .99999
    embed_corpus(tmp_path/'c', tmp_path/'out2', profile=str(tiny), devices='cpu')
    assert not KEPT.loaded and all_gone(pids), 'a call that keeps nothing makes room first'
    embed_corpus(tmp_path/'c', tmp_path/'out3', profile=str(tiny), devices='cpu,cpu', keep=True)
    pids = [w.proc.pid for l in KEPT.loaded.values() for w in l.team]
    release_models()
    assert pids and all_gone(pids)

def test_an_interrupted_team_is_not_kept(tiny, tmp_path, monkeypatch):
    write_file(tmp_path/'c', 'docs/b_chunks.json', [f'Read page {i}.' for i in range(200)], 'b.md')
    def stop(*args, **kwargs): raise KeyboardInterrupt
    monkeypatch.setattr(coderank_qdrant.embedding, 'commit', stop)
    with pytest.raises(KeyboardInterrupt):
        embed_corpus(tmp_path/'c', tmp_path/'out', profile=str(tiny), devices='cpu,cpu', keep=True)
    monkeypatch.undo()
    run = embed_corpus(tmp_path/'c', tmp_path/'out', profile=str(tiny), devices='cpu,cpu', keep=True)
    vectors = np.array([r[2][0] for r in run.records()])
    assert run.summary['total_embeddings'] == 200 and np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    release_models()
