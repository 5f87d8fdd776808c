"Ranking: rules that can be turned off, whatever is asked; two spaces in one collection; scores that say when nothing answers."
import json
import numpy as np
import pytest
from bench_ranking import code_questions, made_run, pools
from conftest import run_cli, write_file
from fastcore.basics import AttrDict
from coderank_qdrant.command import InputError
from coderank_qdrant.fusion import background_of, calibrated, fuse_scores, make_background
from coderank_qdrant.index import index_run
from coderank_qdrant.judged import check_known
from coderank_qdrant.pipeline import embed_corpus
from coderank_qdrant.ranking import RULES, asked_names, asked_owners, defined_names, names_in_text, rank_hits, seldom_meant
from coderank_qdrant.search import search
from coderank_qdrant.stores import opened

def hit(score, source, text='', **metadata):
    return AttrDict(id=f'{source}:{text[:20]}:{score}', score=score, text=text, metadata=dict(source=source, **metadata))

CODE = {'src/store.py': ['class VectorStore:\n    def open_segment(self): ...', 'store = VectorStore()\nstore.open_segment()'],
        'src/retry.py': ['def backoff(attempt):\n    return 2 ** attempt'],
        'tests/test_store.py': ['def test_open_segment():\n    VectorStore().open_segment()', 'VectorStore VectorStore VectorStore'],
        'src/__init__.py': ['from .store import VectorStore\nfrom .retry import backoff'],
        'docs/guide.md': ['## Opening a segment\nA segment is opened by the vector store when points are written.', 'Retries wait longer each time.']}

@pytest.fixture(scope='module')
def index(tmp_path_factory):
    tmp = tmp_path_factory.mktemp('ranking')
    for source,texts in CODE.items(): write_file(tmp/'in', f'{source}_chunks.json', texts, source)
    index_run(embed_corpus(tmp/'in', tmp/'out', profile='offline', devices='cpu'), tmp/'index')
    return tmp/'index'

QUERIES = ['src/store.py', 'Traceback (most recent call last):\n  File "src/store.py", line 3, in open_segment\nKeyError: 1', 'for i in range(3): store.open_segment(i)',
           r'def \w+_segment\(', '(((', '[a-z', '`', '``', 'a`b()`', '今日の天気', 'como se abre un segmento', '::', '->x', '_' * 300, 'x' * 5000, '.' + 'a.' * 2000]

@pytest.mark.parametrize('query', QUERIES)
def test_any_question_gives_the_same_hits_in_some_order(query):
    hits = [hit(1 - i / 10, source, text) for i,(source,texts) in enumerate(CODE.items()) for text in texts]
    for rules in (RULES, *[(rule,) for rule in RULES]):
        ranked = rank_hits(hits, query, rules)
        assert sorted(h.id for h in ranked) == sorted(h.id for h in hits) and all(np.isfinite(h.score) for h in ranked)
        assert [h.score for h in ranked] == sorted((h.score for h in ranked), reverse=True)

def test_metadata_may_be_missing_or_odd():
    odd = [hit(.9, None), hit(.8, 3, content_type=None), AttrDict(id='x', score=.7, text='', metadata={}), hit(.6, '', symbol=['a'], headings=None, content_type='docs'), hit(.5, '/', symbol=7)]
    assert len(rank_hits(odd, 'where is flush defined')) == 5
    assert [h.score for h in rank_hits([hit(-.1, 'a'), hit(-.2, 'b')], 'x')] == [-.1, -.2]  # nothing near: left alone

@pytest.mark.parametrize('text, names', [
    ('pub(crate) async fn flush(&self) {}', ['flush']), ('func (s *Store) Close() error {', ['Close']), ('export default class Box extends A {', ['Box']),
    ('interface Shape { area(): number }', ['Shape']), ('public static final class Node<T> {', ['Node']), ('  def self.call(x)', ['call']), ('data class User(val id: Int)', ['User']),
    ('type Point struct {', ['Point']), ('fun main() {', ['main']), ('defmodule Web.Router do', ['Web']), ('LIMIT: int = 3', ['LIMIT']), ('if x == 3: y', []), ('    x = 3', []), ('return define(x)', [])])
def test_definitions_without_symbols(text, names): assert list(names_in_text(text)) == names

def test_symbols_win_over_text():
    assert defined_names('def other(): ...', dict(content_type='code', symbol='class A > def f, def g')) == ('A', 'f', 'g')

def test_a_symbol_that_is_full_leaves_names_to_the_text():
    text = '\n'.join(f'def {name}(): ...' for name in 'abcdef')
    symbol = ', '.join(f'def {name}' for name in 'abcde')
    assert defined_names(text, dict(content_type='code', symbol=symbol)) == tuple('abcdef')

def first_of(query, *pieces):
    "The text of the first hit, of pieces whose scores go down."
    return rank_hits([hit(1 - i / 10, source, text, content_type='code', symbol=symbol) for i,(source,text,symbol) in enumerate(pieces)], query, ('defines',))[0].text

def test_a_definition_begins_where_its_name_stands_behind_the_word():
    ends, head = ('a.py', '    return run_all(rest)', 'def run_all'), ('a.py', 'def run_all(jobs):', 'def run_all')
    assert first_of('where is run_all defined', ends, head) == head[1]
    java = ('A.java', 'void close() { flush(); }', 'class A > close')
    assert first_of('`close`', ('A.java', '  rest(); }', 'class A > close'), java) == java[1]

def test_a_name_as_it_is_spelled_comes_first():
    near, same = ('a.py', 'def store_attr(): ...', 'def store_attr'), ('a.py', 'def _store_attr(): ...', 'def _store_attr')
    assert first_of('how does _store_attr work', near, same) == same[1] and first_of('how does store_attr work', same, near) == near[1]

def test_an_owner_tells_methods_apart():
    box, ring = ('a.py', '    def area(self): ...', 'class Box > def area'), ('a.py', '    def area(self): return 1', 'class Ring > def area')
    assert first_of('Ring.area', box, ring) == ring[1] and first_of('Box.area', ring, box) == box[1] and first_of('area', box, ring) == box[1]
    assert asked_owners('x' * 5000) == [] and asked_owners('A::b->c(), d#e') == ['A', 'b', 'd']

@pytest.mark.parametrize('path, kinds', [('a/tests/x.py', ['test']), ('pkg/foo_test.go', ['test']), ('src/app.spec.ts', ['test']), ('examples/a.rs', ['example']), ('api_pb2.py', ['generated']),
                                         ('src/latest.py', []), ('contest/a.py', []), ('src/testimony.py', []), ('CHANGELOG.md', ['thin']), ('pkg/__init__.py', ['thin'])])
def test_seldom_meant(path, kinds): assert list(seldom_meant(path)) == kinds

def test_names_in_questions():
    assert asked_names('where is VectorStore defined') == ['VectorStore'] and asked_names('store.open_segment(3)') == ['open_segment']
    assert not asked_names('how are the points written') and not asked_names('HNSW graph build')

def test_each_rule_can_be_turned_off_and_matters(index):
    first = {ranking: search('open_segment', index, ranking=ranking)[0].metadata['source'] for ranking in ('all', 'defines')}
    assert set(first.values()) == {'src/store.py'}
    with pytest.raises(InputError, match='luck'): search('x', index, ranking='luck')

def test_tests_count_less_unless_asked_for():
    hits = [hit(.9, 'tests/test_store.py'), hit(.8, 'src/store.py')]
    assert rank_hits(hits, 'open the store', ('kinds',))[0].metadata['source'] == 'src/store.py'
    assert rank_hits(hits, 'how is the store tested', ('kinds',))[0].metadata['source'] == 'tests/test_store.py'

def test_longer_lists_begin_with_the_shorter_one(index):
    ids = [h.id for h in search('open a segment', index, 9)]
    assert [h.id for h in search('open a segment', index, 3)] == ids[:3]

def test_scores_say_when_nothing_answers(index):
    for query in 'open_segment', 'how is a segment opened', 'backoff': assert search(query, index)[0].score > .5
    for query in '今日の天気はどうですか', 'как приготовить борщ': assert search(query, index)[0].score < .4
    assert all(0 <= h.score <= 1 for h in search('segment', index))

def test_one_list_keeps_its_own_scores(index):
    for mode in 'dense', 'sparse':
        assert [(h.id, h.score) for h in search('segment', index, mode=mode)] == [(h.id, h.score) for h in search('segment', index, mode=mode, ranking='none')]

def test_json_keys(index):
    done = run_cli('open_segment', '--location', index, '--json', '--limit', 2, command='coderank_search', module='search')
    assert [set(h) for h in json.loads(done.stdout)] == [{'id', 'score', 'text', 'metadata', 'duplicates'}] * 2
    bad = run_cli('x', '--location', index, '--ranking', 'luck', command='coderank_search', module='search')
    assert bad.returncode == 2 and 'luck' in bad.stderr and 'Traceback' not in bad.stderr

def test_two_spaces_meet_calibrated():
    "One model's cosines are all high, the other's all low: what stands out from its own background comes first."
    rng, query = np.random.default_rng(0), np.eye(64, dtype=np.float32)[0]
    def space(lift):
        vectors = rng.normal(size=(300, 64)) / 8 + lift * query
        return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    crowded, wide = space(2.), space(0.)
    wide[7] = .6 * query + .8 * np.eye(64)[1]
    found = {name: calibrated({f'{name}{i}': float(x @ query) for i,x in enumerate(xs)}, query, make_background([x[None] for x in xs])) for name,xs in dict(crowded=crowded, wide=wide).items()}
    raw = {name: {f'{name}{i}': float(x @ query) for i,x in enumerate(xs)} for name,xs in dict(crowded=crowded, wide=wide).items()}
    assert next(iter(fuse_scores(found))) == 'wide7' and next(iter(fuse_scores(raw))).startswith('crowded')

def test_the_background_is_the_collections(index):
    with opened(index) as store:
        (name,) = store.about['models']
        background = background_of(store, name)
        assert background is background_of(store, name) and len(background.starts) == store.count()
        assert 0 < background.near < 1

def test_make_quality_can_ask_about_code(tmp_path):
    "Questions made from a package: each has an answer in the collection, and most are found."
    questions = code_questions(tmp_path/'out', made_run('pluggy', tmp_path))
    assert {q['kind'] for q in questions} >= {'docstring', 'symbol', 'file'} and len({q['qid'] for q in questions}) == len(questions)
    with opened(tmp_path/'index') as store:
        assert check_known([q for q in questions if any(q['judgments'].values())], store) == 0
        asked = list(pools(store, questions[::5]))
    right = [any(hit.metadata['text_hash'] in q['judgments'] for hit in rank_hits(lists['scores'], q['query'])[:10]) for q,lists in asked]
    assert sum(right) > .7 * len(right), right
