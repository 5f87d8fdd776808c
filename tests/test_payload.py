"What Qdrant keeps of a chunk: nothing of the user's is overwritten, and no foreign vector goes along."
import json
import pytest
from conftest import read_jsonl, run_cli
from coderank_qdrant.index import index_run
from coderank_qdrant.pipeline import embed_corpus
from coderank_qdrant.search import search
from coderank_qdrant.stores import open_store

pytest.importorskip('qdrant_edge')
VECTOR = [i / 100 - .3 for i in range(64)]
MINE = dict(source='src/a.py', text='my own text', chunk_id=7, link_share='none of yours', first_line=3, last_line=9)
FOREIGN = dict(openai=VECTOR, nested=dict(vector_int8=list(range(64)), kept=1), splade=dict(indices=list(range(20)), values=VECTOR[:20]))
HARMLESS = dict(pages=list(range(40)), bbox=[.1, .2, .3, .4], tags=['a'] * 40)

@pytest.fixture(scope='module')
def indexed(tmp_path_factory):
    "A run over one chunk with all of that, its index, and what was said."
    root = tmp_path_factory.mktemp('payload')
    chunk = dict(content='def area(r): return 3.14 * r ** 2', metadata={**MINE, **FOREIGN, **HARMLESS})
    plain = dict(content='Nothing special here.', metadata=dict(source='docs/b.md'))
    (root/'c/part').mkdir(parents=True)
    (root/'c/part/a_chunks.json').write_text(json.dumps(dict(chunks=[chunk, plain])))
    run = embed_corpus(root/'c', root/'out', profile='offline', devices='cpu')
    return root, run, index_run(run, root/'index')

def test_own_keys_are_kept_beside_ours(indexed):
    root, _, _ = indexed
    with open_store(root/'index') as store: payloads = store.payloads(list(store.ids())).values()
    payload = next(p for p in payloads if p['source'].endswith('a.py'))
    assert payload['text'].startswith('def area') and payload['chunk_id'] == 'c:part:a.py:chunk:0' and payload['link_share'] == 0
    kept = payload['original_metadata']
    assert (kept['text'], kept['chunk_id'], kept['link_share']) == ('my own text', 7, 'none of yours')

def test_foreign_vectors_stay_in_the_jsonl_and_are_counted(indexed):
    root, run, report = indexed
    assert report['vectors_left_out'] == {'openai': 1, 'vector_int8': 1, 'splade': 1}
    line = read_jsonl(run.jsonl)[0]
    assert line['metadata']['openai'] == VECTOR and line['metadata']['nested']['vector_int8'] == list(range(64))
    hit = search('area of a circle', root/'index', limit=1)[0]
    assert not {'openai', 'splade'} & hit.metadata.keys() and hit.metadata['nested'] == {'kept': 1}
    assert {key: hit.metadata[key] for key in HARMLESS} == HARMLESS

def test_the_commands_say_the_same(indexed, tmp_path):
    root, _, _ = indexed
    p = run_cli(root/'out', '--location', tmp_path/'index', command='coderank_index', module='index')
    assert p.returncode == 0 and '3 vectors that came with the chunks left out of the payloads (openai, vector_int8, splade)' in p.stderr
    p = run_cli('area of a circle', '--location', tmp_path/'index', '--limit', 1, '--json', command='coderank_search', module='search')
    hit, = json.loads(p.stdout)
    assert hit['metadata']['original_metadata']['text'] == 'my own text' and set(hit) == {'id', 'score', 'text', 'metadata', 'duplicates'}
    p = run_cli('area of a circle', '--location', tmp_path/'index', '--limit', 1, command='coderank_search', module='search')
    assert 'part/a.py:3\n' in p.stdout, 'as editors open it'

def test_lines_are_shown_and_escaped(indexed):
    root, _, _ = indexed
    hits = search('area of a circle', root/'index', limit=1)
    assert 'a.py:3-9' in hits._repr_html_() and 'a.py:3\n' in str(hits)
    hits[0].metadata['source'] = '<img onerror=x>.py'
    assert '<img' not in hits._repr_html_()
