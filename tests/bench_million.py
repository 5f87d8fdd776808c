"""A large corpus from end to end: rate, and the most memory that the process has, at several sizes.

    python tests/bench_million.py [--sizes 10000,100000,1000000] [--folder DIR] [--kill] [--index]

Chunks of 100 to 600 tokens, a tenth of them texts that were there before, in files of a hundred; the model is a table of token
vectors (64 numbers), so what is measured is all that is not the model. Each size is a run in a process of its own, from chunk files
to JSONL and Parquet. A size named again after a larger one tells how much the machine's own speed changes. --kill ends the largest
run half-way by SIGKILL and says how long the next one takes to its first new batch.
--index puts the first 200,000 chunks into a folder and all into a server, and compares the counts."""
import argparse, json, os, random, resource, shutil, signal, subprocess, sys, tempfile, time
from pathlib import Path
from bench_pipeline import table_model
from conftest import write_file

SENTENCES, A_FILE = 4000, 100

def make_corpus(root, size, words, seed=0):
    "Chunk files, a hundred chunks each; the smaller corpus is the beginning of the larger one."
    rng = random.Random(seed)
    sentences = [' '.join(rng.choices(words, k=20)) + '.' for _ in range(SENTENCES)]
    before = []
    for n in range(size // A_FILE):
        texts = []
        for i in range(A_FILE):
            text = rng.choice(before) if before and rng.random() < .1 else f'{n} {i} ' + ' '.join(rng.choices(sentences, k=rng.randint(4, 25)))
            texts.append(text)
        before = texts  # copies are of the file before
        write_file(root, f'part{n % 6}/d{n // 600}/doc{n}_chunks.json', texts, f'doc{n}.md')

def one_run(root, out, model, limit=None):
    "A run in this process; prints what it took as JSON."
    from coderank_qdrant.pipeline import embed_corpus
    started = time.perf_counter()
    run = embed_corpus(root, out, profile=model, devices='cpu', parquet=True, limit=limit and int(limit))
    took = time.perf_counter() - started
    s = run.summary
    print(json.dumps(dict(seconds=took, chunks=s['total_embeddings'], texts=s['distinct_texts'], computed=s['computed'], account=s['account'],
                          peak=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, jsonl=run.jsonl.stat().st_size / 1e9)))

def start(what, *given):
    "This program again, in a process of its own."
    code = [sys.executable, __file__, f'--{what}', *given]
    return subprocess.Popen([str(part) for part in code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env={**os.environ, 'PYTHONUNBUFFERED': '1'})

def result(process):
    told = process.communicate()[0].decode().strip().splitlines()
    assert process.returncode == 0, f'a run ended with {process.returncode}'
    return json.loads(told[-1])

def chunks_done(metrics):
    "Chunks that have their vectors, by the last batch that a run told of."
    if not metrics.exists(): return 0
    with open(metrics, 'rb') as file:
        file.seek(max(metrics.stat().st_size - 10_000, 0))
        told = [line for line in file.read().splitlines(keepends=True)[1:] if line.endswith(b'\n') and line.startswith(b'{"event":"batch"')]
    return json.loads(told[-1])['done'] if told else 0

def killed_and_continued(root, out, model, chunks):
    "Seconds from the start of the second run to its first new batch, and what it said at the end."
    shutil.rmtree(out, ignore_errors=True)
    first, metrics = start('one', root, out, model), out/'metrics.jsonl'
    while chunks_done(metrics) < chunks:
        assert first.poll() is None, 'the run was over before it could be killed'
        time.sleep(.2)
    first.send_signal(signal.SIGKILL)
    first.wait()
    def batches(): return sum(b'"batch"' in line for line in metrics.read_bytes().splitlines())
    before = batches()
    started = time.perf_counter()
    second = start('one', root, out, model)
    while batches() <= before:
        assert second.poll() is None, 'the second run had nothing to compute'
        time.sleep(.2)
    return time.perf_counter() - started, result(second)

def index_one(out, location, *settings):
    "Index a run in this process; prints what came of it as JSON."
    from coderank_qdrant.index import index_run
    started = time.perf_counter()
    report = index_run(out, location, **json.loads(settings[0] if settings else '{}'))
    print(json.dumps(dict(seconds=time.perf_counter() - started, points=report['points'], peak=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)))

def index_all(root, out, some, model, folder, size):
    "The first 200,000 chunks in a folder, all of them on a server that keeps vectors on its disk; the counts."
    from conftest import QdrantServer
    few = min(size, 200_000)
    limited = result(start('one', root, some, model, few))
    told = result(start('index_of', some, folder/'index'))
    print(f'a folder: {told["points"]:,} points of {limited["chunks"]:,} chunks in {told["seconds"]:,.0f} s, at most {told["peak"]:,.0f} MB', flush=True)
    server = QdrantServer(folder/'server')
    try:
        told = result(start('index_of', out, server.url, json.dumps(dict(on_disk=True, shards=2))))
        print(f'a server, vectors on its disk, 2 shards: {told["points"]:,} points in {told["seconds"]:,.0f} s, at most {told["peak"]:,.0f} MB', flush=True)
    finally: server.kill()

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--sizes', default='10000,100000,1000000')
    p.add_argument('--folder', type=Path)
    p.add_argument('--kill', action='store_true')
    p.add_argument('--index', action='store_true')
    for what in '--one', '--index_of': p.add_argument(what, nargs='+', help=argparse.SUPPRESS)
    args = p.parse_args()
    if args.one: return one_run(*args.one)
    if args.index_of: return index_one(*args.index_of)
    folder = args.folder or Path(tempfile.mkdtemp())
    sizes = [int(size) for size in args.sizes.split(',')]
    try:
        model = folder/'model'
        if not model.exists(): table_model(model)
        words = [word for word in (model/'vocab.txt').read_text().split() if word.isalpha()]
        for size in sizes:
            root, out = folder/f'corpus{size}', folder/f'out{size}'
            if not root.exists(): make_corpus(root, size, words)
            shutil.rmtree(out, ignore_errors=True)
            told = result(start('one', root, out, model))
            print(f'{size:,} chunks, {told["texts"]:,} texts: {told["seconds"]:,.1f} s, {size / told["seconds"]:,.0f} chunks/s, at most {told["peak"]:,.0f} MB, JSONL {told["jsonl"]:.2f} GB', flush=True)
        root, out = folder/f'corpus{max(sizes)}', folder/f'out{max(sizes)}'
        if args.kill:
            wait, told = killed_and_continued(root, folder/'killed', model, max(sizes) // 2)
            same = (folder/'killed').joinpath(f'{root.name}_embeddings.jsonl').read_bytes() == out.joinpath(f'{root.name}_embeddings.jsonl').read_bytes()
            print(f'killed half-way: the next run had its first new batch after {wait:.1f} s, computed {told["computed"]:,} of {told["texts"]:,} texts; the same bytes: {same}', flush=True)
        if args.index: index_all(root, out, folder/'some', model, folder, max(sizes))
    finally:
        if not args.folder: shutil.rmtree(folder)

if __name__ == '__main__': main()
