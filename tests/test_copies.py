"Copies of a text never hide other texts, and cost no time."
import hashlib, time
import pytest
from coderank_qdrant.fusion import deep_lists
from coderank_qdrant.search import find_hits
from coderank_qdrant.stores import open_store
from coderank_qdrant.words import bm25_model, text_words

ABOUT = dict(format=1, collection='c', header='none', navigation='keep', quantization=None, bm25=dict(tokenizer='code', average=256., titles=False),
             models={'mini': dict(fingerprint='f', dimension=8, max_length=128, precision='fp32', long='window', windows=False)})
QUESTION = [('mini', [1.] + [0.] * 7), ('bm25', text_words(bm25_model(), 'upload points'))]

def crowded(location, copies, collection=None):
    "A collection of texts, the nearest first, each with some copies in documents of their own."
    store = open_store(location, collection=collection)
    store.create(ABOUT)
    store.loading()
    number = 0
    for rank,many in enumerate(copies):
        text = 'upload points ' * (len(copies) - rank) + f'number {rank} and nothing else'
        vector = [len(copies) - rank, 1, *[0] * 6]
        words = text_words(bm25_model(), text)
        points = []
        for copy in range(many):
            payload = dict(text=text, text_hash=hashlib.sha256(text.encode()).hexdigest(), chunk_id=f'c:a:d{number}.md:chunk:0', source=f'a/d{number}.md',
                           source_subdir='ab'[copy % 2], content_type='docs')
            points.append(dict(id=int(hashlib.sha256(payload['chunk_id'].encode()).hexdigest(), 16) % 2**63, name='mini', vector=vector, words=words, payload=payload))
            number += 1
        for start in range(0, many, 2000): store.upsert(points[start:start+2000])
    store.finish()
    return store

@pytest.fixture(params=['folder', 'server'])
def place(request, tmp_path):
    if request.param == 'folder': return tmp_path/'index', None
    return request.getfixturevalue('qdrant').url, f'c{time.time_ns()}'

def test_every_text_is_found_behind_ever_so_many_copies(place):
    with crowded(place[0], [14_000, 3000, 1, 1, 40, 1], place[1]) as store:
        for lists in QUESTION[:1], QUESTION[1:], QUESTION:
            hits = find_hits('upload points', store, lists, 5, ranking='none')
            assert [hit.text.count('upload') for hit in hits] == [6, 5, 4, 3, 2], lists
            assert [1 + len(hit.duplicates) for hit in hits] == [14_000, 3000, 1, 1, 40]
        hits = find_hits('upload points', store, QUESTION, 5, dict(source_subdir=['b']), ranking='none')
        assert [1 + len(hit.duplicates) for hit in hits] == [7000, 1500, 20]

def test_copies_cost_no_requests(tmp_path):
    "As many requests as there are texts with more copies than a list is long."
    asked = []
    with crowded(tmp_path/'index', [9000, 1, 1, 300, 1, 1]) as store:
        query = store.query
        store.query = lambda lists, limit, *a, **kw: asked.append(limit) or query(lists, limit, *a, **kw)
        found = deep_lists(store, QUESTION[:1], 5)
        assert len(found['mini']) == 5
    assert len(asked) <= 4 and max(asked) <= 2000
