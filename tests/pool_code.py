"""Make the pool of the judged questions over code: sheets to grade blind, and out of the grades the questions with their judgments.

    python tests/pool_code.py SHEETS [--queries tests/judged_code.jsonl] [--depth 5] [--folder DIR]
    python tests/pool_code.py SHEETS --read tests/judged_code.jsonl

The demo corpus is embedded as it is, and its words are counted with paths, symbols and headings in front of the texts, and without them
(--headers has other choices, as in bench_headers.py). Every question is asked of each collection in every way: vectors, words, both
fused by scores and by ranks, each rule of ranking alone and all together. The first DEPTH texts of each list that
have no grade yet are one pool, in random order. SHEETS/sheet_NN.jsonl has the question in its first line and then a text a line, with a
number that says nothing; which text it is stands in SHEETS/key.json, to be opened by --read alone. Grades go to SHEETS/grades.jsonl, a
line a question: {"qid": ..., "grades": [2, 0, ...]}, in the order of the sheet. 2 answers the question, 1 helps, 0 does not."""
import argparse, json, random
from pathlib import Path
from bench_headers import indexed, stored_texts
from bench_ranking import CACHE, JUDGED_CODE, pools
from coderank_qdrant.chunking import demo_corpus
from coderank_qdrant.finished import read_lines, run_files
from coderank_qdrant.fusion import FUSIONS
from coderank_qdrant.judged import read_queries, write_queries
from coderank_qdrant.ranking import RULES, rank_hits
from coderank_qdrant.stores import opened

POOLED = 'none', 'none+path,symbols,headings' # headers of the collections that are asked

def orders(lists, query):
    "Every list that a question is answered with."
    yield lists['dense']
    yield lists['words']
    for fusion in FUSIONS:
        for rules in ((), RULES, *((rule,) for rule in RULES)): yield rank_hits(lists[fusion], query, rules)

def first_texts(out, index, questions, depth):
    "The first texts of all lists of a collection: {qid: hashes of the texts as they are stored}."
    stored, found = stored_texts(out), {}
    with opened(index) as store:
        for q,lists in pools(store, questions):
            found[q['qid']] = {stored[hit.id] for order in orders(lists, q['query']) for hit in order[:depth]}
    return found

def write_sheets(folder, questions, found, texts, most):
    "A sheet a question, and the key to all of them."
    folder.mkdir(parents=True, exist_ok=True)
    key = {}
    for i,q in enumerate(questions):
        pool = sorted(found[q['qid']] - q['judgments'].keys())
        random.Random(f'{q["qid"]} {len(pool)}').shuffle(pool)
        key[q['qid']] = pool
        lines = [dict(qid=q['qid'], question=q['query']), *(dict(number=n, text=texts[text][:most]) for n,text in enumerate(pool, 1))]
        (folder/f'sheet_{i:02}.jsonl').write_text(''.join(f'{json.dumps(line, ensure_ascii=False)}\n' for line in lines), encoding='utf-8')
    (folder/'key.json').write_text(json.dumps(key))
    return key

def read_grades(folder, questions):
    "The questions with the grades of the sheets added to those they had."
    key = json.loads((folder/'key.json').read_text())
    given = {line['qid']: line['grades'] for line in map(json.loads, (folder/'grades.jsonl').read_text().splitlines())}
    for q in questions:
        pool, grades = key[q['qid']], given[q['qid']]
        assert len(pool) == len(grades), f'{q["qid"]}: {len(pool)} texts, {len(grades)} grades'
        q['judgments'] |= dict(zip(pool, grades, strict=True))
    return questions

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('sheets', type=Path)
    p.add_argument('--queries', type=Path, default=JUDGED_CODE)
    p.add_argument('--depth', type=int, default=5)
    p.add_argument('--headers', nargs='+', default=POOLED)
    p.add_argument('--most', type=int, default=1500, help='characters of a text that are shown')
    p.add_argument('--folder', type=Path, default=CACHE)
    p.add_argument('--read', type=Path, help='the questions with their judgments, to be written')
    args = p.parse_args()
    questions = read_queries(args.queries)
    if args.read: return print(write_queries(args.read, read_grades(args.sheets, questions)))
    found, texts = {q['qid']: set() for q in questions}, {}
    for choice in args.headers:
        out, index = indexed(demo_corpus(args.folder), args.folder/'demo', choice)
        texts |= {line['metadata']['text_hash']: line['text'] for line in read_lines(run_files(out)[1])}
        for qid,pool in first_texts(out, index, questions, args.depth).items(): found[qid] |= pool
    key = write_sheets(args.sheets, questions, found, texts, args.most)
    print(f'{len(key)} sheets, {sum(map(len, key.values()))} texts without a grade, the most for one question {max(map(len, key.values()))}')

if __name__ == '__main__': main()
