"""A corpus larger than memory: chunks are read again from their files, and what stays of each is a few bytes."""
import gc, random, tracemalloc
from functools import partial
import numpy as np
import pytest
from conftest import make_bert, read_jsonl, write_file
from coderank_qdrant import corpus as corpus_chapter, work as work_chapter
from coderank_qdrant.command import InputError
from coderank_qdrant.corpus import read_corpus
from coderank_qdrant.pipeline import embed_corpus
from coderank_qdrant.planning import make_plan
from coderank_qdrant.summary import Count
from coderank_qdrant.texts import Texts, distinct, hash_rows

@pytest.fixture
def no_room(monkeypatch):
    "Nothing of a corpus stays in memory: neither chunks nor token ids."
    monkeypatch.setattr(corpus_chapter, 'HELD', 0)
    monkeypatch.setattr(work_chapter, 'TOKENS_HELD', 0)

def put_many(root, n, rng, words=60):
    "n chunks in files of fifty, a tenth of them copies of one text."
    for f in range(n // 50):
        texts = ['a copy' if rng.random() < .1 else ' '.join(f'w{rng.randrange(500)}' for _ in range(words)) for _ in range(50)]
        write_file(root, f'part{f % 3}/doc{f}_chunks.json', texts, f'doc{f}.md')

def test_the_same_bytes_without_room(tmp_path, no_room, monkeypatch):
    "Headers, both routings, two documents of one name, texts of several windows; planned, embedded, written with every chunk read again."
    model = make_bert(tmp_path/'model')
    put_many(tmp_path/'c', 100, random.Random(0))
    fence = '```python\nimport os\n```'
    write_file(tmp_path/'c', 'a/one_chunks.json', ['same name', 'word ' * 900, fence], 'one/x.md')
    write_file(tmp_path/'c', 'a/two_chunks.json', ['same name too', 'a copy', fence], 'two/x.md')
    runs = []
    for room in 0, 2**28:
        monkeypatch.setattr(corpus_chapter, 'HELD', room)
        monkeypatch.setattr(work_chapter, 'TOKENS_HELD', room)
        runs.append(embed_corpus(tmp_path/'c', tmp_path/f'out{room}', profile=str(model), devices='cpu', header='path', routing='content'))
        assert bool(runs[-1].plan.corpus.chunks.source.source.held) == bool(room)
    streamed, held = runs
    assert streamed.jsonl.read_bytes() == held.jsonl.read_bytes()
    for key in 'account', 'problems', 'distinct_texts', 'windowed', 'chunks_per_subdirectory': assert streamed.summary[key] == held.summary[key]
    assert [p['kind'] for p in streamed.summary['problems']] == ['same_id'] * 2
    lines = read_jsonl(streamed.jsonl)
    assert len(lines) == 106 and [l['metadata']['content_type'] for l in lines if l['text'] == fence] == ['code', 'code']

def traced(call):
    "What a call leaves in memory, in bytes, and the most it had."
    gc.collect()
    tracemalloc.start()
    try:
        kept = call()
        return kept, *tracemalloc.get_traced_memory()
    finally: tracemalloc.stop()

def test_memory_does_not_grow_with_the_texts(tmp_path, no_room):
    "A chunk costs at most 250 bytes in a plan that is ready to run, and 500 on the way there; its text and metadata have some 3,500."
    model = make_bert(tmp_path/'model')
    sizes, left, most = (2000, 10_000), [], []
    for n in sizes: put_many(tmp_path/str(n), n, random.Random(n))
    def planned(n):
        plan = make_plan(read_corpus(tmp_path/str(n)), str(model))
        return plan, Count(plan)
    planned(2000)  # what is imported and remembered once
    for n in sizes:
        (plan, _), kept, peak = traced(partial(planned, n))
        assert len(plan.corpus.chunks) == n and len(plan.models[0].work.rows) > .89 * n
        left.append(kept)
        most.append(peak)
    more = sizes[1] - sizes[0]
    assert (left[1] - left[0]) / more < 250
    assert (most[1] - most[0]) / more < 500

def test_a_file_that_changes_while_it_is_used_ends_the_run(tmp_path, no_room):
    "Named, nothing written; the same command then takes the file as it is."
    model = make_bert(tmp_path/'model')
    put_many(tmp_path/'c', 100, random.Random(0))
    corpus = read_corpus(tmp_path/'c')
    write_file(tmp_path/'c', 'part0/doc0_chunks.json', ['now another text'] * 50, 'doc0.md')
    with pytest.raises(InputError, match='doc0_chunks.json changed while it was used'): make_plan(corpus, str(model))
    run = embed_corpus(tmp_path/'c', tmp_path/'out', profile=str(model), devices='cpu')
    assert run.summary['total_embeddings'] == 100 and read_jsonl(run.jsonl)[0]['text'] == 'now another text'
    (tmp_path/'c/part1/doc1_chunks.json').unlink()
    with pytest.raises(InputError, match='doc1_chunks.json'): list(run.plan.corpus.chunks)

def test_texts_are_found_by_their_whole_hash():
    "Against a dictionary, with many hashes that begin alike."
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 256, (3000, 32), dtype=np.uint8)
    hashes[:2000, :8] = rng.integers(0, 3, (2000, 1), dtype=np.uint8)
    many = hashes[rng.integers(0, 1500, 5000)]
    names = [row.tobytes() for row in many]
    order = list(dict.fromkeys(names))
    first, text = distinct(many)
    assert [names[i] for i in first] == order and [order[i] for i in text] == names
    found = Texts(hash_rows(b''.join(order))).find(hashes)
    numbers = {name: i for i,name in enumerate(order)}
    assert found.tolist() == [numbers.get(row.tobytes(), -1) for row in hashes]
