"""The engine alone against sentence-transformers, in one process, in turn, on the same texts with none left out as a duplicate.

    python tests/bench_engine.py [CORPUS] [--chunks N] [--rounds N]

fp32, packaged MiniLM, texts cut at its maximum. `encode` and its pool of two processes run at the best of several batch sizes.
ONNX Runtime joins where onnx and onnxruntime are installed."""
import argparse, statistics, sys, tempfile, time
from pathlib import Path
import numpy as np, torch
from coderank_qdrant.batching import token_batches
from coderank_qdrant.corpus import read_corpus
from coderank_qdrant.devices import find_devices
from coderank_qdrant.encoder import load_encoder
from coderank_qdrant.models import find_model, frame, load_tokenizer, tokenize
from coderank_qdrant.parallel import run_jobs
from coderank_qdrant.placement import place_model
from coderank_qdrant.workers import Job, Task, close_team, start_team, team_ready

def ours(devices, texts, card, folder):
    "A team that is loaded, and a function that embeds with it, tokenising included."
    tok = load_tokenizer(folder)
    pre, post = frame(tok)
    team = start_team(Task(card, folder, 'fp32', measure=False), place_model(card.name, card.weights, find_devices(devices)))
    team_ready(team)
    def run():
        rows = [np.array([*pre, *i[:card.max_length-2], *post]) for i in tokenize(tok, texts)]
        lengths, out = list(map(len, rows)), np.zeros((len(texts), card.dim), np.float32)
        jobs = [Job(b.tolist()) for b in token_batches(lengths, 2048)]
        for kind,f in run_jobs(team, jobs, lambda ns: [rows[n] for n in ns], lengths):
            if kind == 'done': out[f['numbers']] = f['vectors']
        return out
    return team, run

def with_onnx(texts, card, folder):
    "The same weights in ONNX Runtime, with our batches."
    import onnxruntime
    enc, tok = load_encoder(card, folder), load_tokenizer(folder)
    pre, post = frame(tok)
    class Mean(torch.nn.Module):
        def __init__(self): super().__init__(); self.body = enc.body
        def forward(self, ids, mask):
            h, m = self.body(input_ids=ids, attention_mask=mask).last_hidden_state, mask.unsqueeze(-1).float()
            return torch.nn.functional.normalize((h * m).sum(1) / m.sum(1), dim=-1)
    file, ids = Path(tempfile.mkdtemp())/'m.onnx', torch.ones(2, 8, dtype=torch.int64)
    axes = {n: {0: 'rows', 1: 'length'} for n in ('ids', 'mask')}
    torch.onnx.export(Mean().eval(), (ids, ids), str(file), input_names=['ids', 'mask'], output_names=['v'], dynamic_axes=axes, dynamo=False)
    session = onnxruntime.InferenceSession(str(file), providers=['CPUExecutionProvider'])
    def run():
        rows = [np.array([*pre, *i[:card.max_length-2], *post]) for i in tokenize(tok, texts)]
        out = np.zeros((len(texts), card.dim), np.float32)
        for b in token_batches(list(map(len, rows)), 2048):
            n = max(len(rows[i]) for i in b)
            ids, mask = (np.array([np.pad(r, (0, n - len(r))) for r in rs]) for rs in zip(*((rows[i], np.ones_like(rows[i])) for i in b), strict=False))
            out[b] = session.run(None, dict(ids=ids.astype(np.int64), mask=mask.astype(np.int64)))[0]
        return out
    return run

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('corpus', nargs='?', default=Path(__file__).resolve().parents[2]/'shared/qdrant_ecosystem', type=Path)
    p.add_argument('--chunks', type=int, default=300)
    p.add_argument('--rounds', type=int, default=5)
    args = p.parse_args()
    if not args.corpus.is_dir(): sys.exit(f'No corpus at {args.corpus}. Name a folder of chunk files.')
    from sentence_transformers import SentenceTransformer
    chunks = read_corpus(args.corpus).chunks
    texts = [c.text for c in chunks[::max(len(chunks) // args.chunks, 1)]][:args.chunks]
    card, folder, _ = find_model('all-MiniLM-L6-v2')
    st = SentenceTransformer(str(folder), device='cpu', local_files_only=True)
    pool = st.start_multi_process_pool(['cpu', 'cpu'])
    one, run_one = ours('cpu', texts, card, folder)
    two, run_two = ours('cpu,cpu', texts, card, folder)
    ways = {'coderank_qdrant, one worker': run_one, 'coderank_qdrant, two workers': run_two}
    for b in 4, 8, 16, 32:
        ways[f'encode, batch {b}'] = lambda b=b: st.encode(texts, batch_size=b, normalize_embeddings=True)
        ways[f'encode, pool of two, batch {b}'] = lambda b=b: st.encode(texts, batch_size=b, pool=pool, normalize_embeddings=True)
    try: ways['ONNX Runtime, our batches'] = with_onnx(texts, card, folder)
    except ImportError as e: print(f'ONNX Runtime is left out: {e}')
    took, ref = {w: [] for w in ways}, run_one()
    for r in range(args.rounds):
        for w,run in ways.items():
            start = time.perf_counter()
            out = run()
            took[w].append(time.perf_counter() - start)
            assert (out * ref).sum(1).min() > .9999, w
        print(f'round {r+1} of {args.rounds}', file=sys.stderr)
    close_team([*one, *two])
    st.stop_multi_process_pool(pool)
    middle = {w: statistics.median(t) for w,t in took.items()}
    for w,t in sorted(middle.items(), key=lambda x: x[1]): print(f'{w}: {len(texts)/t:.1f} chunks/s')
    theirs = min(t for w,t in middle.items() if w.startswith('encode'))
    mine = min(t for w,t in middle.items() if w.startswith('coderank'))
    print(f'best of ours against best of encode: {theirs/mine:.2f} times as fast')

if __name__ == '__main__': main()
