"""Measure the index: points a second and memory while 100,000 x 768 points go in, and a question's time and recall with the graph.

    python tests/bench_search.py [--points 100000] [--exact_below 0] [--quantize] [--folder DIR]

The vectors are clustered as embeddings are: 64 numbers of noise around 2,000 topics, turned into 768 dimensions. The truth for
recall is brute force in numpy. The same is done with 8-bit copies (--quantize), searched first and rescored. A graph is built for
100,000 points and more; --exact_below 0 builds one for fewer."""
import argparse, random, shutil, tempfile, threading, time
from pathlib import Path
import numpy as np
from coderank_qdrant.chunks import point_id
from coderank_qdrant.edge import EdgeStore
from coderank_qdrant.fusion import ranked_texts
from coderank_qdrant.index import make_points, send_points
from coderank_qdrant.words import bm25_model, query_words

def rss():
    "Anonymous memory of this process in MB: what is not a page of a file that could be dropped."
    return next(int(l.split()[1]) / 1024 for l in open('/proc/self/status') if l.startswith('RssAnon'))

class Peak:
    "The most memory there was since `start`, looked at fifty times a second."
    def __init__(self): self.most = 0; threading.Thread(target=self._watch, daemon=True).start()
    def start(self): self.most = rss()
    def _watch(self):
        while True: self.most = max(self.most, rss()); time.sleep(.02)

def made_vectors(n, dim=768, seed=0):
    rng = np.random.default_rng(seed)
    turn = np.linalg.qr(rng.normal(size=(dim, 64)))[0].T.astype(np.float32)
    centres = rng.normal(size=(2000, 64)).astype(np.float32)
    def draw(k, s):
        r = np.random.default_rng(s)
        v = (centres[r.integers(0, 2000, k)] + .6 * r.normal(size=(k, 64)).astype(np.float32)) @ turn
        return v / np.linalg.norm(v, axis=1, keepdims=True)
    return draw

def about_of(quantize, dim=768):
    model = dict(fingerprint='made', dimension=dim, max_length=512, precision='fp32', long='window', windows=False)
    return dict(format=1, collection='bench', models={'made': model}, navigation='keep', bm25=dict(tokenizer='code', average=256, titles=False), quantization='int8' if quantize else None)

def fill(store, draw, n, peak, batch=128):
    "Send points as `index_run` does; returns points a second and the most memory in each tenth of the way."
    rng, start, memory = random.Random(0), time.perf_counter(), []
    store.loading()
    peak.start()
    for i in range(0, n, batch):
        k = min(batch, n - i)
        lines = [dict(id=f'bench:d:f:chunk:{i+j}', text=f'def {rng.choice(WORDS)}({", ".join(rng.choices(WORDS, k=60))}): pass', embedding=v,
                      metadata=dict(collection='bench', source_subdir='d', source=f'd/{WORDS[(i+j) // 8 % 100]}/{WORDS[(i+j) % 97]}{".py" if (i+j) % 2 else ".md"}',
                                    content_type='code' if (i+j) % 2 else 'docs', model='made', vector_dimension=768, text_hash=f'{i+j:064x}'))
                 for j,v in enumerate(draw(k, i))]
        send_points(store, list(make_points(lines, store.about)))
        if i // (n // 10) != (i + batch) // (n // 10): memory.append(peak.most); peak.start()
    return n / (time.perf_counter() - start), memory

WORDS = [f'{a}_{b}' for a in 'load save open close read write find make send get'.split() for b in 'point vector index file name text query batch shard model'.split()]

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--points', type=int, default=100_000)
    p.add_argument('--queries', type=int, default=200)
    p.add_argument('--quantize', action='store_true')
    p.add_argument('--exact_below', type=int, default=EdgeStore.exact_below)
    p.add_argument('--folder', type=Path)
    args = p.parse_args()
    EdgeStore.exact_below, peak = args.exact_below, Peak()
    folder = args.folder or Path(tempfile.mkdtemp())
    try:
        with EdgeStore(folder/'index') as store:
            store.create(about_of(args.quantize))
            draw = made_vectors(args.points)
            rate, memory = fill(store, draw, args.points, peak)
            print(f'{args.points:,} points: {rate:,.0f} points/s, most anonymous memory in each tenth of the way, MB: {" ".join(f"{m:,.0f}" for m in memory)}', flush=True)
            start = time.perf_counter()
            peak.start()
            store.finish()
            took = time.perf_counter() - start
            graph = args.points >= args.exact_below
            print(f'segments made one, {"with a graph" if graph else "no graph"}, in {took:.1f} s, at most {peak.most:,.0f} MB; {args.points / (args.points / rate + took):,.0f} points/s in all', flush=True)
            xs = np.concatenate([draw(min(128, args.points - i), i) for i in range(0, args.points, 128)])
            qs = draw(args.queries, 10**9)
            truth = np.argsort(-(qs @ xs.T), axis=1)[:, :10]
            del xs
            ids = {point_id(f'bench:d:f:chunk:{i}'): i for i in range(args.points)}
            for exact in (False, True) if graph else (True,):
                for q in qs[:20]: store.query([("made", q)], 10, exact=exact)
                took, hits = [], 0
                for q,t in zip(qs, truth, strict=False):
                    start = time.perf_counter()
                    found, = store.query([("made", q)], 10, exact=exact)
                    took.append(1000 * (time.perf_counter() - start))
                    hits += len({ids[i] for i,*_ in found} & set(t.tolist()))
                print(f'{"every vector" if exact else "graph"}: recall@10 {hits / truth.size:.4f}, p50 {np.percentile(took, 50):.1f} ms, p99 {np.percentile(took, 99):.1f} ms', flush=True)
            words = [('bm25', query_words(bm25_model(), 'load point find vector'))]
            took = []
            for q in qs:
                start = time.perf_counter()
                ranked_texts(store, [('made', q), *words], 10)
                took.append(1000 * (time.perf_counter() - start))
            print(f'hybrid, words and vectors: p50 {np.percentile(took, 50):.1f} ms, p99 {np.percentile(took, 99):.1f} ms')
    finally:
        if not args.folder: shutil.rmtree(folder)

if __name__ == '__main__': main()
