"The vectors are the ones sentence-transformers gives, whatever batch, strategy or window they came through."
import random, sqlite3
from contextlib import closing
import numpy as np
import pytest
from sentence_transformers import SentenceTransformer
from conftest import REAL, make_bert, read_jsonl, run_cli, summary_of, write_file
from coderank_qdrant.cache import VectorCache
from coderank_qdrant.chunks import text_hash
from coderank_qdrant.command import InputError
from coderank_qdrant.corpus import read_corpus
from coderank_qdrant.encoder import load_encoder
from coderank_qdrant.models import find_model, frame, load_tokenizer, spans, tokenize
from coderank_qdrant.pipeline import embed_corpus
from coderank_qdrant.routing import PROFILES

def vectors(path): return {l['id']: np.array(l['embedding'], np.float32) for l in read_jsonl(path)}
def cosines(a, b): return np.array([a[i] @ b[i] for i in a])

@pytest.fixture(scope='module')
def some(tmp_path_factory, texts):
    "60 random chunks."
    root = tmp_path_factory.mktemp('c')/'some'
    write_file(root, 'docs/a_chunks.json', random.Random(0).sample(texts, 60))
    return root

def test_agrees_with_encode_alone(some, tmp_path):
    run = embed_corpus(some, tmp_path, profile='offline', long='truncate', precision='fp32')
    m = run.plan.models[0]
    st = SentenceTransformer(str(m.folder), device='cpu', local_files_only=True)
    alone = {c.id: st.encode(c.text, normalize_embeddings=True) for c in run.plan.corpus.chunks}
    assert cosines(vectors(run.jsonl), alone).min() >= .99999
    assert run.summary['truncated'] > 0

def test_static_and_tokens_agree(some, tmp_path):
    a = embed_corpus(some, tmp_path/'a', profile='offline', long='truncate')
    b = embed_corpus(some, tmp_path/'b', profile='offline', long='truncate', strategy='static')
    assert cosines(vectors(a.jsonl), vectors(b.jsonl)).min() >= .99999
    assert a.summary["padding_waste"] < b.summary["padding_waste"]
    assert (b.summary['batch_size'], b.summary['models'][0]['strategy']) == (32, 'static')

def test_windows_are_pooled_by_tokens(tmp_path, tiny):
    text = ' '.join(f'word{i}' for i in range(900))
    write_file(tmp_path/'c', 'docs/a_chunks.json', [text, 'short'])
    run = embed_corpus(tmp_path/'c', tmp_path/'out', profile=str(tiny))
    m = run.plan.models[0]
    enc, ids = load_encoder(m.card, m.folder), tokenize(load_tokenizer(m.folder), [text])[0]
    cut = spans(len(ids), m.width)
    assert len(cut) > 2
    vs = enc.embed([[101, *ids[s:e], 102] for s,e in cut])
    mean = (vs * np.array([[e - s] for s,e in cut])).sum(0)
    line = read_jsonl(run.jsonl)[0]
    assert line['metadata']['windows'] == len(cut)
    assert np.array(line['embedding']) @ mean / np.linalg.norm(mean) > .99999

def test_tokens_are_those_of_the_model(texts):
    card, folder, _ = find_model('all-MiniLM-L6-v2')
    tok, st = load_tokenizer(folder), SentenceTransformer(str(folder), device='cpu', local_files_only=True)
    some = texts[::20]
    pre, post = frame(tok)
    mine = [[*pre, *i[:254], *post] for i in tokenize(tok, some)]
    theirs = [st.tokenize([t])['input_ids'][0].tolist() for t in some]
    assert mine == theirs

def test_two_models_of_different_size_in_one_run(tmp_path, monkeypatch):
    "Code to one model, docs to another: one JSONL, each with its own dimension."
    models = {n: make_bert(tmp_path/'m'/n, hidden=h) for n,h in (('small', 32), ('large', 48))}
    monkeypatch.setitem(PROFILES, 'two', {'code': [str(models['small'])], 'docs': [str(models['large'])], 'other': [str(models['large'])]})
    write_file(tmp_path/'c', 'src/a_chunks.json', ['import os', 'x = 1', 'shared'], 'a.py')
    write_file(tmp_path/'c', 'docs/b_chunks.json', ['Hello.', 'shared'], 'b.md')
    run = embed_corpus(tmp_path/'c', tmp_path/'out', profile='two')
    lines = {l['id']: l for l in read_jsonl(run.jsonl)}
    assert run.summary['vector_dimension'] == {'small': 32, 'large': 48} and run.summary['model'] == ['small', 'large']
    assert {l['metadata']['model']: len(l['embedding']) for l in lines.values()} == {'small': 32, 'large': 48}
    assert all(l['metadata']['vector_dimension'] == len(l['embedding']) for l in lines.values())
    assert [l['metadata']['content_type'] for l in lines.values()] == ['docs', 'docs', 'code', 'code', 'code']
    again = embed_corpus(tmp_path/'c', tmp_path/'out', profile='two')
    assert again.summary['computed'] == 0

def test_a_poisoned_text_is_quarantined_and_nothing_else(tmp_path):
    "A model with one poisoned word: its texts are quarantined by id, exit 3, the others are whole."
    import torch
    from coderank_qdrant.chunking import chunk_tokenizer
    word, = chunk_tokenizer().encode('poison', add_special_tokens=False).ids
    def poison(m):
        with torch.no_grad(): m.embeddings.word_embeddings.weight[word] = float('nan')
    model = make_bert(tmp_path/'poisoned', change=poison)
    long = 'word ' * 600  # of its windows only the second has the poisoned word
    write_file(tmp_path/'c', 'docs/a_chunks.json', ['fine', 'poison here', 'fine too', 'poison here', long, long[:2250] + 'poison ' + long[2250:]])
    p = run_cli(tmp_path/'c', '--out', tmp_path/'out', '--profile', model)
    s = summary_of(tmp_path/'out', 'c')
    assert p.returncode == 3 and [q['id'][-1] for q in s['quarantined']] == ['1', '3', '5']
    assert s['account'] == dict(found=6, embedded=3, quarantined=3, reported=0, beyond_limit=0)
    assert [l['text'] for l in read_jsonl(tmp_path/'out/c_embeddings.jsonl')] == ['fine', 'fine too', long]
    assert run_cli(tmp_path/'c', '--out', tmp_path/'out', '--profile', model, '--max_bad', 3).returncode == 0

@pytest.mark.slow
@pytest.mark.skipif(not REAL.is_dir(), reason='the reference corpus is not beside the project')
def test_the_reference_corpus(tmp_path):
    p = run_cli(REAL, '--out', tmp_path, '--profile', 'offline')
    assert p.returncode == 0, p.stderr
    lines, s, raw = read_jsonl(tmp_path/'qdrant_ecosystem_embeddings.jsonl'), summary_of(tmp_path, 'qdrant_ecosystem'), read_corpus(REAL)
    assert len(lines) == len({l['id'] for l in lines}) == 3872 and s['computed'] == 2613 and s['problems'] == []
    assert [l['id'] for l in lines] == [c.id for c in raw.chunks] and [l['text'] for l in lines] == [c.text for c in raw.chunks]
    v = np.array([l['embedding'] for l in lines])
    assert v.shape == (3872, 384) and abs(np.linalg.norm(v, axis=1) - 1).max() < 1e-5
    assert s['chunks_per_subdirectory'] == {'qdrant_client_docs': 166, 'qdrant_documentation': 2863, 'qdrant_examples': 142, 'qdrant_fastembed': 187, 'qdrant_mcp-server-qdrant': 86, 'qdrant_web_docs': 428}
    assert s['padding_waste'] <= 1.02

@pytest.mark.skipif(not REAL.is_dir(), reason='the reference corpus is not beside the project')
def test_the_reference_corpus_with_a_small_model(tmp_path, tiny):
    "The whole way with all chunks; only the model is small."
    import json
    run = embed_corpus(REAL, tmp_path, profile=str(tiny), long='truncate')
    lines = read_jsonl(run.jsonl)
    assert len(lines) == len({l['id'] for l in lines}) == 3872 and run.summary['computed'] == 2613
    assert run.summary['padding_waste'] <= 1.02
    raw = [c for f in sorted(REAL.rglob('*.json'), key=lambda f: f.relative_to(REAL).parts) for c in json.loads(f.read_text())['chunks']]
    for l,c in zip(lines, raw, strict=True):
        kept = {**l['metadata'], **l['metadata'].get('original_metadata', {})}
        assert l['text'] == c['content'] and all(kept[k] == v for k,v in c['metadata'].items()) and l['metadata']['index'] == c['index']

def test_a_work_list_that_was_cut_short_fits_no_run(tmp_path, monkeypatch):
    "It is written in slices; a disk that fills between two of them leaves a list that nobody goes on from."
    from coderank_qdrant import cache as chapter
    monkeypatch.setattr(chapter, 'SLICE', 10)
    keys = [text_hash(str(i)) for i in range(35)]
    batches = [[(key, 0) for key in keys[i:i+5]] for i in range(0, 35, 5)]
    with VectorCache(tmp_path/'vectors.sqlite') as cache:
        assert cache.read('pragma page_size') == [(16384,)]
        chapter.save_work(cache, 'a', batches, dict(budget=1))
        def listed(name):
            saved, settings = chapter.load_work(cache, name)
            keys = [(row.tobytes().hex(), int(window)) for row,window in zip(saved.hashes, saved.windows, strict=True)]
            return [[key for key,batch in zip(keys, saved.batch, strict=True) if batch == one] for one in dict.fromkeys(saved.batch)], settings
        assert listed('a') == (batches, dict(budget=1))
        real, writes = chapter.work_rows, iter(range(25))
        def full(model, batches):
            for row in real(model, batches):
                if next(writes, None) is None: raise InputError('the disk is full')
                yield row
        monkeypatch.setattr(chapter, 'work_rows', full)
        with pytest.raises(InputError): chapter.save_work(cache, 'a', batches, dict(budget=1))
        left, settings = listed('a')
        assert settings == {} and len(left) < len(batches)
        monkeypatch.setattr(chapter, 'work_rows', real)
        chapter.save_work(cache, 'a', batches, dict(budget=2))
        assert listed('a') == (batches, dict(budget=2))

def test_a_cache_of_small_pages_goes_on(tmp_path):
    file = tmp_path/'vectors.sqlite'
    with VectorCache(file) as cache: cache.model_id('a')
    with closing(sqlite3.connect(file, isolation_level=None)) as db:
        for sql in 'pragma journal_mode=delete', 'pragma page_size=4096', 'vacuum': db.execute(sql)
    with VectorCache(file) as cache:
        assert cache.read('pragma page_size') == [(4096,)] and cache.model_id('a') == 1
        assert cache.read('pragma journal_mode') == [('wal',)]
