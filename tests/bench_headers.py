"""Measure headers: the same questions with and without what a piece says of itself in front of its text.

    python tests/bench_headers.py [--folder DIR] [--corpus ROOT --judged tests/judged.jsonl] [--only LOT] [--headers CHOICE ...]

The code is of installed packages with its docstrings taken out, as in bench_ranking.py; ROOT is a folder of chunk files with judged
questions; the demo corpus is asked what it holds. Texts are told apart as they are stored, so that copies which differ only in their
header count once, and the judgments hold for every choice."""
import argparse
from pathlib import Path
import numpy as np
from bench_ranking import CACHE, CHECKED, MOST, SETTLED, cell, code_questions, made_run
from coderank_qdrant.chunking import demo_corpus
from coderank_qdrant.evaluate import K, score_answers, split_lists
from coderank_qdrant.finished import read_lines, run_files
from coderank_qdrant.index import index_run
from coderank_qdrant.judged import make_queries, read_queries
from coderank_qdrant.pipeline import embed_corpus
from coderank_qdrant.questions import MODES, query_lists
from coderank_qdrant.search import find_hits
from coderank_qdrant.stores import opened

CHOICES = 'none', 'none+path', 'none+symbols', 'none+path,symbols', 'none+path,symbols,headings', 'path', 'symbols', \
          'path,symbols', 'path,headings'

def indexed(root, folder, choice):
    "A run with a header, and its collection, whose words may have another one behind a +."
    embedded, _, counted = choice.partition('+')
    out = folder/('header_' + embedded.replace(',', '_'))
    if not list(out.glob('*_embedding_summary.json')): embed_corpus(root, out, profile='offline', devices='cpu', header=embedded)
    index_run(out, out/f'index_{counted or embedded}', words=counted or embedded)
    return out, out/f'index_{counted or embedded}'

def stored_texts(out):
    "The hash of each chunk's text as it is stored, by the chunk's id."
    _, jsonl, _ = run_files(out)
    return {line['id']: line['metadata']['text_hash'] for line in read_lines(jsonl)}

def found_texts(store, lists, query, ranking, stored):
    "What a search brings: stored texts, each once, and their files."
    hits = find_hits(query, store, lists, 3 * K, ranking=ranking)
    texts = list(dict.fromkeys(stored[hit.id] for hit in hits))[:K]
    return texts, list(dict.fromkeys(hit.metadata['source'] for hit in hits))[:K]

def scores_of(index, questions, ranking, stored):
    "nDCG@10 by piece and by file for each mode. {mode: shape (questions, 2)}"
    rows = {mode: [] for mode in MODES}
    with opened(index) as store:
        for q in questions:
            lists, _ = query_lists(q['query'], store.about, device='cpu')
            for mode in MODES:
                texts, files = found_texts(store, split_lists(lists, mode), q['query'], ranking, stored)
                by_file = score_answers(files, q['files'])[0] if 'files' in q else np.nan
                by_piece = score_answers(texts, q['judgments'])[0] if q['kind'] != 'file' else np.nan
                rows[mode].append((by_piece, by_file))
    return {mode: np.array(found) for mode,found in rows.items()}

def table(name, root, folder, questions, first, choices):
    "Every choice, mode and kind of question, with and without the rules of ranking."
    stored = stored_texts(first)
    kinds = np.array([q['kind'] for q in questions])
    for ranking in 'all', 'none':
        held = None
        for choice in choices:
            scores = scores_of(indexed(root, folder, choice)[1], questions, ranking, stored)
            held = held or scores
            for mode in MODES:
                for kind in dict.fromkeys(kinds.tolist()):
                    for part,label in enumerate(('piece', 'file')):
                        mine, base = (found[mode][kinds == kind, part] for found in (scores, held))
                        text = cell(mine, None if choice == 'none' else base)
                        if text: print(f'| {name} | rules {ranking} | {mode} | {kind} ({len(mine)}) by {label} | {choice} | {text} |', flush=True)

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--folder', type=Path, default=CACHE)
    p.add_argument('--corpus', type=Path)
    p.add_argument('--judged', type=Path)
    p.add_argument('--only', choices=('settled', 'checked', 'demo', 'documents'), help='one of the lots of questions')
    p.add_argument('--headers', nargs='+', default=CHOICES, help='the first is what the others are held against')
    args = p.parse_args()
    print(f'| lot | ranking | mode | questions | header | nDCG@{K} |\n|---|---|---|---|---|---|')
    for name,packages in ('settled', SETTLED), ('checked', CHECKED):
        if args.only not in (None, name): continue
        asked = made_run(packages, args.folder/name)
        first, _ = indexed(args.folder/name/'tree', args.folder/name, 'none')
        questions = [q for q in code_questions(first, asked) if any(q['judgments'].values())]
        table(packages, args.folder/name/'tree', args.folder/name, questions, first, args.headers)
    lots = {'demo': demo_corpus(args.folder), 'documents': args.corpus}
    for name,root in lots.items():
        if not root or args.only not in (None, name): continue
        first, _ = indexed(root, args.folder/name, 'none')
        judged = [{**q, 'kind': 'judged'} for q in read_queries(args.judged)] if args.judged and name == 'documents' else []
        table(name, root, args.folder/name, [q for q in judged if any(q['judgments'].values())] + make_queries(first, MOST), first, args.headers)

if __name__ == '__main__': main()
