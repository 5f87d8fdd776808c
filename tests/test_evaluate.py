"Evaluation: numbers against others' arithmetic, made questions, and files that are refused."
import json, re
from collections import Counter
from pathlib import Path
import numpy as np
import pytest
from conftest import REAL, run_cli, write_file
from coderank_qdrant.chunking import demo_corpus
from coderank_qdrant.command import run_command
from coderank_qdrant.evaluate import coderank_evaluate, evaluate, interval, score_answers
from coderank_qdrant.fusion import FUSIONS
from coderank_qdrant.finished import read_lines, run_files
from coderank_qdrant.index import index_run
from coderank_qdrant.judged import make_queries, read_queries, write_queries
from coderank_qdrant.pipeline import embed_corpus

@pytest.fixture(scope='module')
def place(tmp_path_factory, tiny):
    root = tmp_path_factory.mktemp('evaluate')
    write_file(root/'c', 'docs/a_chunks.json', [f'# How to handle case {i} well\n\nCall `handle_case_{i}` for number {i}.' for i in range(30)])
    run = embed_corpus(root/'c', root/'out', profile=str(tiny))
    index_run(run, root/'index')
    write_queries(root/'q.jsonl', make_queries(run, 10))
    return root

def test_ndcg_is_that_of_scikit_learn():
    from sklearn.metrics import ndcg_score
    rng = np.random.default_rng(0)
    for _ in range(50):
        grades = rng.integers(0, 3, 10)
        if not grades.any(): continue
        found = [str(i) for i in rng.permutation(10)]
        scores = [[10 - found.index(str(i)) for i in range(10)]]
        mine = score_answers(found, {str(i): int(g) for i,g in enumerate(grades)})
        assert mine[0] == pytest.approx(ndcg_score([grades], scores, k=10)) and mine[2] == 1

def test_known_items_are_in_one_text(place):
    questions = read_queries(place/'q.jsonl')
    texts = {r['metadata']['text_hash']: r['text'] for r in read_lines(run_files(place/'out')[1])}
    known = [q for q in questions if q['kind'] != 'topic']
    assert len(known) == 20 and all([h for h,t in texts.items() if q['query'] in t] == [h for h,g in q['judgments'].items() if g == 2] for q in known)
    order = list(texts)
    assert all(order.index(h) == order.index(next(iter(q['judgments']))) + 1 for q in known for h,g in q['judgments'].items() if g == 1)
    topic, = [q for q in questions if q['kind'] == 'topic']
    assert set(topic['judgments']) == set(texts) and sorted(topic['judgments'].values()) == [1] * 29 + [2]

def test_the_command_gives_the_numbers(place, tiny):
    args = '--location', place/'index', '--queries', place/'q.jsonl', '--models_dir', tiny.parent
    p = run_cli(*args, '--json', '--mode', 'sparse', command='coderank_evaluate', module='evaluate')
    assert p.returncode == 0, p.stderr
    out = json.loads(p.stdout)
    assert set(out) == {'ndcg@10', 'mrr@10', 'recall@10', 'queries', 'mode'} and out['queries'] == 21 and out['mode'] == 'sparse'
    ev = evaluate(place/'index', place/'q.jsonl', ['sparse'], models_dir=tiny.parent)
    assert out == ev.summary('sparse') and out['recall@10'] > .8

@pytest.mark.parametrize('line,says', [('{"qid": "1"', 'line 1 is not JSON'), ('{"qid": "1", "query": "a"}', 'is no question'), ('{"qid": "1", "query": "a", "judgments": {"x": 1.5}}', 'grade of 0, 1 or 2'),
    ('{"qid": "1", "query": "", "judgments": {"x": 1}}', 'empty'), ('{"qid": "1", "query": "a", "judgments": {"x": 1}}\n' * 2, 'line 2: there is a question 1 already'), ('\n', 'no question in it'),
    ('{"qid": "1", "query": "a", "judgments": {"%s": 2}}' % ('0' * 64), 'not in the collection'), ('{"qid": "1", "query": "a", "judgments": {"x": 0}}', 'nothing to find')], ids=lambda s: s[:20])
def test_questions_that_are_refused(place, tmp_path, line, says, capsys):
    (tmp_path/'q.jsonl').write_text(line)
    assert run_command(coderank_evaluate.__wrapped__, ['--location', str(place/'index'), '--queries', str(tmp_path/'q.jsonl'), '--mode', 'sparse']) == 2
    out = capsys.readouterr()
    assert says in out.err and out.err.count('\n') == 1 and not out.out

def test_questions_without_an_answer_are_counted(place, tmp_path):
    h = next(read_lines(run_files(place/'out')[1]))['metadata']['text_hash']
    ev = evaluate(place/'index', [dict(qid='a', query='case', judgments={h: 2}, kind='x'), dict(qid='b', query='case', judgments={h: 0}, kind='x')], ['sparse'])
    assert len(ev.questions) == 1 and list(ev.notes.values()) == [1] and '(1 questions)' in str(ev)

def test_text_in_questions_is_escaped(place):
    h = next(read_lines(run_files(place/'out')[1]))['metadata']['text_hash']
    ev = evaluate(place/'index', [dict(qid='a', query='<script>alert(1)</script>', judgments={h: 2}, kind='<img src=x>'), dict(qid='b', query='x', judgments={h: 1}, kind='k')], ['sparse'])
    assert '<img' not in ev._repr_html_()

@pytest.mark.slow
@pytest.mark.parametrize('which', ['demo', 'real'])
def test_hybrid_beats_its_parts(which, request):
    "On questions made from the corpus; the runs are kept between sessions."
    folder = request.config.cache.mkdir('search')
    if which == 'real' and not REAL.is_dir(): pytest.skip('the reference corpus is not beside the project')
    run = embed_corpus(REAL if which == 'real' else demo_corpus(folder), folder/('run' if which == 'real' else 'demo_run'), profile='offline')
    index_run(run, folder/f'{which}_index')
    ev = evaluate(folder/f'{which}_index', make_queries(run, 100))
    print(ev)
    for part in 'dense', 'sparse':
        mean, lo, hi = ev.gain('hybrid', part)
        assert lo > 0, f'hybrid - {part}: {mean:.4f} ({lo:.4f} to {hi:.4f})'

@pytest.mark.slow
def test_hybrid_beats_its_parts_on_judged_questions(request):
    "Questions in people's words over the reference corpus: hybrid is better than either list alone, and no worse than ranks by more than chance."
    if not REAL.is_dir(): pytest.skip('the reference corpus is not beside the project')
    folder = request.config.cache.mkdir('search')
    run = embed_corpus(REAL, folder/'run', profile='offline')
    index_run(run, folder/'real_index')
    judged = Path(__file__).with_name('judged.jsonl')
    ev, ranks = (evaluate(folder/'real_index', judged, fusion=f) for f in FUSIONS)
    print(ev)
    for part in 'dense', 'sparse':
        mean, lo, hi = ev.gain('hybrid', part)
        assert lo > .03, f'hybrid - {part}: {mean:.4f} ({lo:.4f} to {hi:.4f})'
    assert interval(ev.scores['hybrid'][:,0] - ranks.scores['hybrid'][:,0])[1] > 0

def test_the_judged_questions_are_whole():
    "What the site says of them: how many, of which kinds, how many texts, and that most have an answer."
    tests = Path(__file__).parent
    for name,questions,texts,answered in ('judged.jsonl', 92, 1772, 90), ('judged_code.jsonl', 60, 765, 57):
        asked = read_queries(tests/name)
        assert (len(asked), sum(len(q['judgments']) for q in asked)) == (questions, texts), name
        assert sum(any(q['judgments'].values()) for q in asked) >= answered and all(re.fullmatch('[0-9a-f]{64}', text) for q in asked for text in q['judgments'])
    assert Counter(q['kind'] for q in asked) == dict(meaning=30, architecture=15, behaviour=15)
