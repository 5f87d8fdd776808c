"""How many vectors a second one process takes down and gives back: in the cache, and in shards that workers have written.

    python tests/bench_shards.py [--rows 20000] [--rounds 3] [--dims 384,768,3584]

What is found is written to nbs/measured_shards.json, which the page on scaling shows. Batches of a hundred come in, as from many workers; then all vectors are read in another order, 500 texts at a time, as they are for
the JSONL. For shards, writing is the workers' part and is measured beside; the driver notes the places. Both ways take turns."""
import argparse, json, os, platform, statistics, subprocess, tempfile, time
from datetime import date
from pathlib import Path
import numpy as np
from coderank_qdrant.cache import VectorCache, get_vectors, note_shard, put_texts, put_vectors
from coderank_qdrant.shards import write_shard

ROOT = Path(__file__).resolve().parents[1]
SPACE = 'f' * 64

def timed(work):
    start = time.perf_counter()
    work()
    return time.perf_counter() - start

def one_round(folder, texts, vectors, order):
    "Seconds for each part, by both ways."
    keys = [(text, 0, 300) for text in texts]
    took = {}
    with VectorCache(folder/'plain.sqlite') as cache, VectorCache(folder/'placed.sqlite', folder) as placed:
        for one in cache, placed: put_texts(one, SPACE, [(text, 300, 1) for text in texts])
        def put():
            for i in range(0, len(texts), 100): put_vectors(cache, SPACE, [key[:2] for key in keys[i:i + 100]], [300] * 100, vectors[i:i + 100])
        def get(one):
            for i in range(0, len(texts), 500): assert len(get_vectors(one, SPACE, [texts[j] for j in order[i:i + 500]])) == 500
        took['cache, written'] = timed(put)
        names = []
        took['shard, written by a worker'] = timed(lambda: names.append(write_shard(folder, SPACE, keys, vectors)))
        took['shard, noted'] = timed(lambda: note_shard(placed, folder/names[0], SPACE))
        took['cache, read'] = timed(lambda: get(cache))
        took['shard, read'] = timed(lambda: get(placed))
    return took

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--rows', type=int, default=20_000)
    p.add_argument('--rounds', type=int, default=3)
    p.add_argument('--dims', default='384,768,3584')
    p.add_argument('--out', type=Path, default=ROOT/'nbs/measured_shards.json')
    args = p.parse_args()
    rng = np.random.default_rng(0)
    texts = [rng.bytes(32).hex() for _ in range(args.rows)]
    order = rng.permutation(args.rows)
    found = []
    print('| numbers in a vector | | vectors/s | least and most |\n|---|---|---|---|')
    for dim in map(int, args.dims.split(',')):
        vectors = rng.standard_normal((args.rows, dim), np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        rounds = []
        for _ in range(args.rounds):
            with tempfile.TemporaryDirectory() as folder: rounds.append(one_round(Path(folder), texts, vectors, order))
        for part in rounds[0]:
            rates = sorted(args.rows / took[part] for took in rounds)
            found.append(dict(dim=dim, part=part, rate=round(statistics.median(rates)), spread=[round(rates[0]), round(rates[-1])]))
            print(f'| {dim:,} | {part} | {statistics.median(rates):,.0f} | {rates[0]:,.0f} to {rates[-1]:,.0f} |', flush=True)
    commit = subprocess.run(['git', 'rev-parse', '--short', 'HEAD'], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    about = dict(command='python tests/bench_shards.py', date=date.today().isoformat(), commit=commit, vectors=args.rows, rounds=args.rounds,
                 machine=f'{os.cpu_count()} CPU cores, Python {platform.python_version()}')
    args.out.write_text(json.dumps(dict(about, rows=found), indent=1) + '\n')

if __name__ == '__main__': main()
