"""What a GPU does with models of the mission's shapes (random weights): memory predicted and measured, speed, share of the ceiling.

    python tests/bench_gpu.py                          on the first GPU, capped at 15 GiB like a T4
    python tests/bench_gpu.py --device cpu --layers 1  the same steps where there is none, on one layer"""
import argparse, tempfile, time
from dataclasses import replace
from pathlib import Path
import numpy as np, torch
from coderank_qdrant.all import *
from conftest import as_sentence_model, byte_tokenizer, make_nomic_bert

def seven_billion(folder, layers):
    "A checkpoint of Qwen2.5-Coder-7B's shape, written layer by layer in 16 bits."
    from transformers import Qwen2Config, Qwen2Model
    folder.mkdir(parents=True)
    byte_tokenizer(folder)
    cfg = Qwen2Config(hidden_size=3584, num_hidden_layers=layers, num_attention_heads=28, num_key_value_heads=4, intermediate_size=18944, vocab_size=152064)
    torch.set_default_dtype(torch.bfloat16)
    Qwen2Model(cfg).save_pretrained(folder, max_shard_size='4GB')
    torch.set_default_dtype(torch.float32)
    as_sentence_model(folder, 3584, 'lasttoken', normalise=True)
    return folder

def ceiling(device, dtype, n=4096, rounds=20):
    "FLOP/s of a large matrix product."
    a, b = (torch.randn(n, n, device=device, dtype=dtype) for _ in 'ab')
    wait = torch.cuda.synchronize if device != 'cpu' else lambda: None
    a @ b; wait()
    start = time.perf_counter()
    for _ in range(rounds): a @ b
    wait()
    return 2 * n**3 * rounds / (time.perf_counter() - start)

def memory_table(enc, longest):
    "Predicted against measured, for shapes the fit has not seen."
    model, worst = probe_memory(enc, longest), 0
    for s in (longest // 3, longest // 5, 2 * longest // 3, longest - longest // 7):
        for b in (1, 3, 5):
            predicted, measured = model.peak(b, s), peak_memory(enc, b, s)
            worst = max(worst, abs(predicted / measured - 1))
            print(f'  {b} x {s}: predicted {predicted/2**30:.3f} GiB, measured {measured/2**30:.3f} GiB, {100*(predicted/measured-1):+.1f}%')
    print(f'  worst: {100*worst:.1f}% (10% allowed)')
    return model

def speed(enc, lengths, budget):
    "Tokens a second over rows of some lengths."
    batches = token_batches(lengths, budget)
    rows = [[np.arange(int(lengths[i])) % 900 + 5 for i in b] for b in batches]
    enc.embed(rows[0])
    start, before = time.perf_counter(), None
    for r in rows:
        now = begin(enc, r)
        if before: assert finish(enc, before)[0] == 'done'
        before = now
    assert finish(enc, before)[0] == 'done'
    return sum(lengths) / (time.perf_counter() - start)

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--device', default='cuda:0')
    p.add_argument('--layers', type=int)
    p.add_argument('--rows', type=int, default=2000)
    args = p.parse_args()
    gpu = args.device != 'cpu'
    if gpu: torch.cuda.set_per_process_memory_fraction(15 * 2**30 / torch.cuda.get_device_properties(args.device).total_memory)
    lengths = np.clip(np.random.default_rng(0).normal(507, 120, args.rows if gpu else 20), 8, 1024).astype(int)
    tmp = Path(tempfile.mkdtemp())
    small = make_nomic_bert(tmp/'CodeRankEmbed', layers=args.layers or 12, inner=3072)
    large = seven_billion(tmp/'CodeRankLLM', args.layers or 28)
    for name,folder,precisions in ('CodeRankEmbed', small, ('fp16', 'bf16') if gpu else ('bf16',)), ('CodeRankLLM', large, ('fp16', 'int8') if gpu else ('bf16',)):
        card = replace(MODELS[name], max_length=2048 if gpu else 256)
        for precision in precisions:
            enc = load_encoder(card, folder, args.device, precision, table=(name, precision) != ('CodeRankLLM', 'fp16'))
            print(f'{name}, {args.layers or "all"} layers, {precision}, {torch.cuda.get_device_name() if gpu else "CPU"}')
            memory_table(enc, card.max_length)
            found = calibrate(enc, 15 * 2**30)
            got, weights = speed(enc, lengths, found.budget), count_weights(folder)
            share = got * 2 * (weights.count - weights.wide) / ceiling(args.device, DTYPES[precision] if gpu else torch.bfloat16)
            print(f'  budget {found.budget:,} tokens; {got:,.0f} tokens/s, {100*share:.0f}% of what a matrix product reaches')
            del enc

if __name__ == '__main__': main()
