"A header in front of each text: what is embedded and counted changes, what is stored and shown does not."
import json
import pytest
from conftest import read_jsonl, run_cli, summary_of
from coderank_qdrant.command import InputError
from coderank_qdrant.cache import VectorCache
from coderank_qdrant.index import index_run
from coderank_qdrant.pipeline import embed_corpus
from coderank_qdrant.search import search

BODIES = ['return sum(sizes)', 'raise ValueError(words)', 'yield from pages', 'return sum(sizes)']
SYMBOLS = ['class Ledger > def balance', 'def refuse', '', 'class Invoice > def total']

@pytest.fixture
def corpus(tmp_path):
    "Pieces whose texts do not say where they stand; two of them have one text."
    chunks = [dict(content=text, metadata=dict(source='src/ledger.py', symbol=symbol)) for text,symbol in zip(BODIES, SYMBOLS, strict=True)]
    chunks += [dict(content=f'Page {i} is about something else.', metadata=dict(source='docs/pages.md', headings=['Guide', f'Part {i}'])) for i in range(6)]
    (tmp_path/'c/src').mkdir(parents=True)
    (tmp_path/'c/src/a_chunks.json').write_text(json.dumps(dict(chunks=chunks)))
    return tmp_path/'c'

def embed(corpus, out, **options): return embed_corpus(corpus, out, profile='offline', devices='cpu', **options)

def test_what_is_stored_stays_and_what_is_embedded_changes(corpus, tmp_path):
    plain, headed = embed(corpus, tmp_path/'plain'), embed(corpus, tmp_path/'headed', header='symbols,path')
    assert (plain.summary['header'], headed.summary['header']) == ('none', 'path,symbols')
    assert plain.summary['distinct_texts'] == 9 and headed.summary['distinct_texts'] == 10, 'one text under two symbols'
    for a,b in zip(read_jsonl(plain.jsonl), read_jsonl(headed.jsonl), strict=True):
        assert (a['id'], a['text'], a['metadata']) == (b['id'], b['text'], b['metadata'])
        assert a['embedding'] != b['embedding']
    assert 'header: path,symbols' in str(headed.plan) and 'header' not in str(plain.plan)

def test_one_cache_serves_both_and_computes_each_once(corpus, tmp_path):
    assert embed(corpus, tmp_path/'out').summary['computed'] == 9
    first = (tmp_path/'out/c_embeddings.jsonl').read_bytes()
    assert embed(corpus, tmp_path/'out', header='path').summary['computed'] == 9
    assert embed(corpus, tmp_path/'out', header='path,headings').summary['computed'] == 6, 'only the pages have headings'
    assert embed(corpus, tmp_path/'out').summary['computed'] == 0
    assert (tmp_path/'out/c_embeddings.jsonl').read_bytes() == first
    with VectorCache(tmp_path/'out/vectors.sqlite') as cache: assert len(cache.read('select id from models')) == 1

def test_words_find_what_only_the_header_says(corpus, tmp_path):
    pytest.importorskip('qdrant_edge')
    for name,header in ('plain', 'none'), ('headed', 'path,symbols,headings'):
        index_run(embed(corpus, tmp_path/name, header=header), tmp_path/f'{name}_index', words=header)
    ask = lambda name, words: search(words, tmp_path/f'{name}_index', mode='sparse', limit=1)
    assert not ask('plain', 'invoice') and not ask('plain', 'ledger')
    hit, = ask('headed', 'invoice total')
    assert hit.text == 'return sum(sizes)' and not hit.text.startswith('src')
    assert search('part 3 of the guide', tmp_path/'headed_index', limit=1)[0].text == 'Page 3 is about something else.'

def test_texts_under_two_headers_are_not_mixed(corpus, tmp_path):
    pytest.importorskip('qdrant_edge')
    index_run(embed(corpus, tmp_path/'out'), tmp_path/'index')
    run = embed(corpus, tmp_path/'out', header='path')
    with pytest.raises(InputError, match='embedded with the header none, those of the run with path'): index_run(run, tmp_path/'index')
    assert index_run(run, tmp_path/'index', recreate=True)['written'] == 10

def test_a_long_text_has_its_header_and_all_its_windows(corpus, tmp_path):
    pytest.importorskip('qdrant_edge')
    file = corpus/'src/a_chunks.json'
    file.write_text(json.dumps(dict(chunks=[dict(content='one more word ' * 900, metadata=dict(source='docs/a.md', headings='Guide'))])))
    run = embed(corpus, tmp_path/'out', header='path,headings', verify=1)
    assert run.verified['all-MiniLM-L6-v2'] > .99999
    index_run(run, tmp_path/'index')
    assert search('guide', tmp_path/'index', mode='sparse', limit=1) and search('more words', tmp_path/'index', mode='dense', limit=1)

def test_a_part_that_is_none_is_refused(corpus, tmp_path):
    p = run_cli(corpus, '--out', tmp_path/'out', '--profile', 'offline', '--header', 'path,author')
    assert p.returncode == 2 and '--header' in p.stderr and 'author' in p.stderr and 'Traceback' not in p.stderr
    assert run_cli(corpus, '--out', tmp_path/'out', '--profile', 'offline', '--header', 'path').returncode == 0
    assert summary_of(tmp_path/'out', 'c')['header'] == 'path'

def test_words_are_counted_with_path_and_symbols(corpus, tmp_path):
    "A word that stands in the path or the symbols only is found; what is shown and what the vectors are of stays the text."
    run = embed(corpus, tmp_path/'run')
    index_run(run, tmp_path/'index')
    index_run(run, tmp_path/'plain', words='none')
    for word,text in ('ledger', 'return sum(sizes)'), ('refuse', 'raise ValueError(words)'), ('invoice', 'return sum(sizes)'):
        assert search(word, tmp_path/'plain', mode='sparse', device='cpu') == []
        assert text in [hit.text for hit in search(word, tmp_path/'index', mode='sparse', device='cpu')]
    with pytest.raises(InputError, match='indexed with bm25'): index_run(run, tmp_path/'plain')
    assert index_run(run, tmp_path/'plain', recreate=True)['written'] == 10

def test_a_collection_from_before_goes_on_as_it_was(corpus, tmp_path):
    "Its description says nothing of a header for words, and it was made of texts alone."
    run = embed(corpus, tmp_path/'run')
    index_run(run, tmp_path/'index', words='none')
    file = tmp_path/'index/collection.json'
    told = json.loads(file.read_text())
    del told['bm25']['header']
    file.write_text(json.dumps(told))
    assert index_run(run, tmp_path/'index')['written'] == 0
    assert 'header' not in json.loads(file.read_text())['bm25'] and search('ledger', tmp_path/'index', mode='sparse', device='cpu') == []
    assert index_run(run, tmp_path/'index', recreate=True)['written'] == 10, 'made anew, it counts words as a new one does'
    assert search('ledger', tmp_path/'index', mode='sparse', device='cpu')
