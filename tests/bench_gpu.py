"""What a GPU does with models of the registered shapes (random weights), held against what the chapters say by count.

    python tests/bench_gpu.py            on the first GPU, capped at 15 GiB like a T4; some 8 minutes
    python tests/bench_gpu.py --small    the same steps on small shapes, to see that they run

Memory predicted and measured; tokens a second, as a share of what a large matrix product reaches and as a ratio to
`SentenceTransformer.encode` at its best batch size; two workers on one card. What is found is written to
nbs/measured_gpu.json, which chapter memory shows."""
import argparse, json, statistics, tempfile, time
from dataclasses import replace
from pathlib import Path
import numpy as np, torch
from coderank_qdrant.batching import token_batches
from coderank_qdrant.calibration import BUDGETS, calibrate
from coderank_qdrant.devices import CONTEXT, find_devices
from coderank_qdrant.encoder import load_encoder
from coderank_qdrant.machine import free_cached
from coderank_qdrant.memory import GIB, peak_memory, probe_memory, usual_batch
from coderank_qdrant.models import MODELS, count_weights, load_tokenizer, tokenize
from coderank_qdrant.parallel import run_jobs
from coderank_qdrant.placement import place_model
from coderank_qdrant.workers import Job, Task, close_team, start_team, team_ready
from conftest import as_sentence_model, byte_tokenizer, make_nomic_bert

RECORD = Path(__file__).resolve().parents[1]/'nbs/measured_gpu.json'
CAP = 15 * 2**30  # bytes of a card that stands in for a T4

def seven_billion(folder, small):
    "A checkpoint of Qwen2.5-Coder-7B's shape in bf16, as published: several files, sentence-transformers' modules."
    from transformers import Qwen2Config, Qwen2Model
    folder.mkdir(parents=True)
    byte_tokenizer(folder)
    shape = dict(hidden_size=448, num_hidden_layers=2, intermediate_size=1024, vocab_size=4096) if small else \
            dict(hidden_size=3584, num_hidden_layers=28, intermediate_size=18944, vocab_size=152064)
    torch.set_default_dtype(torch.bfloat16)
    Qwen2Model(Qwen2Config(num_attention_heads=28, num_key_value_heads=4, **shape)).save_pretrained(folder, max_shard_size='4GB')
    torch.set_default_dtype(torch.float32)
    as_sentence_model(folder, shape['hidden_size'], 'lasttoken', normalise=True)
    return folder

def ceiling(device, n):
    "FLOP/s of a large product of half precision."
    a, b = (torch.randn(n, n, device=device, dtype=torch.float16) for _ in 'ab')
    times = []
    for _ in range(6):
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(10): a @ b
        torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return 2 * n**3 * 10 / statistics.median(times[1:])

def memory_rows(enc, placed, longest):
    "(batch, by count, by fit, measured) in GiB, for shapes that neither has seen."
    fit, found = probe_memory(enc, longest), []
    for length in (longest // 3, longest // 5, 2 * longest // 3, longest - longest // 7):
        for rows in (1, 3, 5):
            three = placed.memory.most(rows, length), fit.most(rows, length), peak_memory(enc, rows, length)
            found.append([f'{rows} x {length}', *(round(n / GIB, 3) for n in three)])
    return found

def tokens_a_second(team, rows, budget):
    "How fast a team embeds rows of token ids."
    lengths = [len(r) for r in rows]
    jobs = [Job(b.tolist()) for b in token_batches(np.array(lengths), budget)]
    run = lambda: [f for kind,f in run_jobs(team, jobs, lambda numbers: [rows[i] for i in numbers], lengths) if kind == 'done']
    run()
    start = time.perf_counter()
    done = run()
    assert sum(len(f['numbers']) for f in done) == len(rows)
    return sum(lengths) / (time.perf_counter() - start)

def with_encode(enc, tokenizer, texts, tokens, device):
    "Tokens a second of `encode`, with the same transformer, at its best batch size; and that size."
    from sentence_transformers import SentenceTransformer
    with tempfile.TemporaryDirectory() as tmp:
        enc.body.save_pretrained(tmp)
        tokenizer.save_pretrained(tmp)
        as_sentence_model(Path(tmp), enc.body.config.hidden_size, 'cls_token', normalise=True)
        model = SentenceTransformer(tmp, device=device, model_kwargs=dict(dtype=torch.float16))
    best = 0, 0
    for size in (8, 16, 32, 64):
        try:
            model.encode(texts[:size], batch_size=size)
            start = time.perf_counter()
            model.encode(texts, batch_size=size)
            best = max(best, (tokens / (time.perf_counter() - start), size))
        except torch.OutOfMemoryError: break
    return best

def measure(name, folder, precision, table, args, top):
    "Everything about one model in one precision."
    card, device = replace(MODELS[name], max_length=args.longest, dim=None), args.device
    placed = place_model(name, count_weights(folder), (args.card,), precision, shape=folder, batch=usual_batch(args.longest, True),
                         failed={} if table else {(name, 'copy', precision): 'The table is to stay in host memory.'})
    enc = load_encoder(card, folder, device, precision, table)
    memory = memory_rows(enc, placed, args.longest)
    found = calibrate(enc, args.card.memory)
    dim = enc.card.dim
    tokenizer = load_tokenizer(folder)
    rows = [np.array(i[:args.longest - 2]) for i in tokenize(tokenizer, args.texts)]
    baseline = with_encode(enc, tokenizer, args.texts, sum(map(len, rows)), device) if name == 'CodeRankEmbed' else None
    del enc
    free_cached(device)
    task = Task(replace(card, dim=dim), folder, precision, table, measure=False)
    speeds = {}
    for workers in (1, 2) if name == 'CodeRankEmbed' else (1,):
        team = start_team(task, replace(placed, devices=(args.card,) * workers))
        team_ready(team)
        speeds[workers] = tokens_a_second(team, rows, found.budget)
        close_team(team)
    weights = count_weights(folder)
    facts = dict(model=name, precision=precision, table='device' if table else 'host', budget=found.budget, memory=memory,
                 tokens_per_second=round(speeds[1]), share_of_products=round(speeds[1] * 2 * (weights.count - weights.wide) / top, 3))
    if baseline: facts |= dict(two_workers=round(speeds[2] / speeds[1], 2), ratio_to_encode=round(speeds[1] / baseline[0], 2), encode_batch=baseline[1])
    worst = max(abs(counted / measured - 1) for _,counted,_,measured in memory)
    print(f'{name} in {precision}, table on the {facts["table"]}: ' + ', '.join(f'{k} {v}' for k,v in facts.items() if k not in ('model', 'precision', 'table', 'memory')))
    for row in memory: print('  {}: {} GiB by count, {} by fit, {} measured'.format(*row))
    print(f'  worst of the count: {100*worst:.1f}%')
    return facts

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--device', default='cuda:0')
    p.add_argument('--small', action='store_true')
    p.add_argument('--out', type=Path, default=RECORD)
    args = p.parse_args()
    begun, total = time.time(), torch.cuda.get_device_properties(args.device).total_memory
    torch.cuda.set_per_process_memory_fraction(min(CAP / total, 1.))
    args.card, = (replace(d, memory=min(d.memory, CAP - CONTEXT)) for d in find_devices(args.device))
    args.longest = 128 if args.small else 2048
    args.texts = [' '.join(f'word{(i * j) % 97}' for j in range(5 + i % 40)) for i in range(12 if args.small else 3000)]
    if args.small: BUDGETS[True] = 1024, 2048
    tmp = Path(tempfile.mkdtemp())
    (tmp/'CodeRankEmbed').mkdir()
    embed = make_nomic_bert(tmp/'CodeRankEmbed', **(dict(hidden=128, heads=2) if args.small else dict(layers=12, inner=3072)))
    seven = seven_billion(tmp/'CodeRankLLM', args.small)
    top = ceiling(args.device, 512 if args.small else 8192)
    runs = ('CodeRankEmbed', embed, 'fp16', True), ('CodeRankLLM', seven, 'fp16', False), ('CodeRankLLM', seven, 'int8', True)
    found = [measure(*run, args, top) for run in runs]
    facts = dict(card=args.card.name, capped_at_gib=15, torch=torch.__version__, products_tflops=round(top / 1e12, 1), models=found,
                 command='make gpu', seconds=round(time.time() - begun))
    args.out.write_text(json.dumps(facts, indent=1) + '\n')
    print(f'{facts["products_tflops"]} TFLOP/s in large products; {facts["seconds"]} s; written to {args.out.name}')

if __name__ == '__main__': main()
