"""Measure the quality of a search: modes, ways of fusing, settings of the index, and its graph, on made and on judged questions.

    python tests/bench_quality.py RUN [--judged tests/judged.jsonl] [--folder DIR]

RUN is the output folder of a finished `coderank_embed`. Two lots of questions are made from it; the fusion's constants were looked
at with seed 1, so seed 0 is the one to report. judged.jsonl has 92 questions in people's words over the reference corpus."""
import argparse, shutil, tempfile
from pathlib import Path
import numpy as np
from coderank_qdrant.collection import Store
from coderank_qdrant.evaluate import compare_settings, evaluate, interval, settings_table
from coderank_qdrant.fusion import FUSIONS
from coderank_qdrant.index import index_run
from coderank_qdrant.judged import make_queries, read_queries
from coderank_qdrant.questions import query_lists
from coderank_qdrant.stores import opened

def shown(values):
    lo, hi = interval(values)
    return f'{np.mean(values):+.3f} ({lo:+.3f} to {hi:+.3f})'

def fusions(store, sets):
    "Both fusions against their parts: nDCG@10, and how much hybrid adds."
    print('| questions | n | dense | sparse | fused by | hybrid | more than dense | more than sparse |\n|---|---|---|---|---|---|---|---|')
    for name,qs in sets.items():
        for f in FUSIONS:
            ev = evaluate(store, qs, fusion=f)
            d, s, h = (ev.scores[m][:,0] for m in ('dense', 'sparse', 'hybrid'))
            print(f'| {name} | {len(qs)} | {d.mean():.3f} | {s.mean():.3f} | {f} | {h.mean():.3f} | {shown(h - d)} | {shown(h - s)} |', flush=True)

def graphs(run, folder, questions):
    "What a graph finds of the ten nearest points, with Qdrant's own numbers and with ours; it is made whatever the number of points."
    print('\n| edges | candidates, making | candidates, asking | of the ten nearest |\n|---|---|---|---|')
    usual, Store.exact_below = (dict(m=16, ef_construct=100), 128), 0
    for graph,ef in usual, (Store.graph, Store.ef):
        Store.graph, Store.ef, hits = graph, ef, 0
        index_run(run, folder/f'graph{ef}')
        with opened(folder/f'graph{ef}') as store:
            for q in questions:
                dense = query_lists(q['query'], store.about, 'dense')[0]
                near, true = (store.query(dense, 10, exact=e)[0] for e in (False, True))
                hits += sum(score >= true[-1][1] - 1e-6 for _,score,_ in near)  # by score: copies stand in any order
        print(f'| {graph["m"]} | {graph["ef_construct"]} | {ef} | {hits / (10 * len(questions)):.4f} |', flush=True)

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('run', type=Path)
    p.add_argument('--judged', type=Path)
    p.add_argument('--folder', type=Path)
    args = p.parse_args()
    folder = args.folder or Path(tempfile.mkdtemp())
    try:
        sets = {f'made, seed {s}': make_queries(args.run, seed=s) for s in (0, 1)}
        if args.judged: sets['judged'] = read_queries(args.judged)
        index_run(args.run, folder/'index')
        with opened(folder/'index') as store: fusions(store, sets)
        for name in [n for n in sets if n != 'made, seed 1']:
            print(f'\n{name}\n\n| setting | points | hybrid | dense | sparse |\n|---|---|---|---|---|')
            for row in settings_table(compare_settings(args.run, folder/name.replace(' ', '_'), sets[name])): print('| ' + ' | '.join(map(str, row)) + ' |', flush=True)
        graphs(args.run, folder, [q for qs in sets.values() for q in qs])
    finally:
        if not args.folder: shutil.rmtree(folder)

if __name__ == '__main__': main()
