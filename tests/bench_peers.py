"""This package and others like it, side by side on one machine: the same texts, the same weights, in turn.

    python tests/bench_peers.py [CORPUS] [--chunks N] [--rounds N] [--minutes 9] [--out FILE]
    make performance            installs the peers into an environment of their own first

The packaged MiniLM, texts cut at its maximum. First the model alone, texts in and vectors out: each peer at its best batch size
of three, found on a quarter of the texts, which does not count. Then whole pipelines, from chunk files to vectors on the disk,
each in a process of its own with all that begins and ends it. Every way takes
its turn in every round, each result is held against ours, and what counts is the ratio within a round: the machine may be busy with
other things. Where there is a GPU, all of it runs there, in half precision. A peer that is not installed is named, with the line that
installs it. What is found is written to nbs/measured_peers.json."""
import argparse, json, os, platform, shutil, statistics, subprocess, sys, tempfile, time, warnings
from contextlib import suppress
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
os.environ.update(RAY_USAGE_STATS_ENABLED='0', RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO='0', RAY_AUTH_MODE='disabled', HF_HUB_OFFLINE='1')
import numpy as np, torch
from coderank_qdrant.corpus import read_corpus
from coderank_qdrant.pipeline import embed_corpus
from coderank_qdrant.finished import read_lines
from coderank_qdrant.models import find_model
from coderank_qdrant.workers import close_team
from bench_engine import ours, with_onnx

ROOT = Path(__file__).resolve().parents[1]
GPU = torch.cuda.is_available()
DEVICE = 'cuda' if GPU else 'cpu'
DEVICES = [f'cuda:{i}' for i in range(torch.cuda.device_count())] if GPU else ['cpu'] * max(os.cpu_count() // 2, 2)
SIZES = (32, 128, 256) if GPU else (4, 8, 32)
LEAST = .999 if GPU else .9999  # cosine to our vectors
INSTALL = {'ONNX Runtime': ('onnxruntime', 'pip install onnxruntime onnx'), 'fastembed': ('fastembed', 'pip install --no-deps fastembed loguru mmh3 py-rust-stemmers'),
           'LlamaIndex': ('llama-index-embeddings-huggingface', 'pip install llama-index-embeddings-huggingface'), 'txtai': ('txtai', 'pip install txtai'),
           'Ray Data': ('pandas', 'pip install "ray[data]" pandas'), 'coderank_qdrant, --engine ray': ('ray', 'pip install "coderank_qdrant[ray]"')}

def half(**options): return options | (dict(model_kwargs=dict(dtype=torch.float16)) if GPU else {})

def sentence_model(folder):
    from sentence_transformers import SentenceTransformer
    return SentenceTransformer(str(folder), device=DEVICE, local_files_only=True, **half())

# the model alone: each gives a function from a batch size to vectors, and what ends it

def our_engine(texts, card, folder):
    "One worker with all threads, and as many as there are devices; the better of the two counts, as of the peers the best batch size."
    teams = {devices: ours(devices, texts, card, folder) for devices in dict.fromkeys((DEVICES[0], ','.join(DEVICES)))}
    return (lambda devices: teams[devices][1]()), (lambda: [close_team(team) for team,_ in teams.values()]), list(teams)

def encode(texts, card, folder):
    model = sentence_model(folder)
    return (lambda size: model.encode(texts, batch_size=size, normalize_embeddings=True)), (lambda: None), SIZES

def encode_pool(texts, card, folder):
    model = sentence_model(folder)
    pool = model.start_multi_process_pool(DEVICES)
    return (lambda size: model.encode(texts, batch_size=size, pool=pool, normalize_embeddings=True)), (lambda: model.stop_multi_process_pool(pool)), SIZES

def onnx_file(card, folder, into):
    "The weights in ONNX's form, as fastembed expects them."
    from coderank_qdrant.encoder import load_encoder
    body = load_encoder(card, folder).body
    class Body(torch.nn.Module):
        def __init__(self): super().__init__(); self.body = body
        def forward(self, input_ids, attention_mask, token_type_ids):
            return self.body(input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids).last_hidden_state
    shutil.copytree(folder, into, dirs_exist_ok=True)
    one, names = torch.ones(2, 8, dtype=torch.int64), ['input_ids', 'attention_mask', 'token_type_ids']
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        torch.onnx.export(Body().eval(), (one, one, 0 * one), str(into/'model.onnx'), input_names=names, output_names=['last_hidden_state'],
                          dynamic_axes={n: {0: 'rows', 1: 'length'} for n in [*names, 'last_hidden_state']}, dynamo=False)
    return into

def onnx(texts, card, folder):
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        run = with_onnx(texts, card, folder)
    return (lambda _: run()), (lambda: None), (0,)

def fastembed(texts, card, folder):
    from fastembed import TextEmbedding
    from fastembed.common.model_description import ModelSource, PoolingType
    into = onnx_file(card, folder, Path(tempfile.mkdtemp()))
    tokenizer = json.loads((into/'tokenizer.json').read_text())
    tokenizer['truncation'] = dict(direction='Right', max_length=card.max_length, strategy='LongestFirst', stride=0)
    (into/'tokenizer.json').write_text(json.dumps(tokenizer))
    config = json.loads((into/'tokenizer_config.json').read_text())
    (into/'tokenizer_config.json').write_text(json.dumps(config | dict(model_max_length=card.max_length, max_length=card.max_length)))
    TextEmbedding.add_custom_model(model='packaged/minilm', pooling=PoolingType.MEAN, normalization=True, sources=ModelSource(hf='packaged/minilm'), dim=card.dim, model_file='model.onnx')
    model = TextEmbedding('packaged/minilm', specific_model_path=str(into))
    return (lambda size: np.array(list(model.embed(texts, batch_size=size)))), (lambda: shutil.rmtree(into)), SIZES

ENGINES = {'coderank_qdrant': our_engine, 'encode': encode, 'encode, a pool of processes': encode_pool, 'ONNX Runtime': onnx, 'fastembed': fastembed}

# whole pipelines: chunk files in, vectors on the disk out; each gives the rows it wrote, and runs in a process of its own

def our_pipeline(corpus, card, folder, out, **options):
    run = embed_corpus(corpus, out, profile='offline', long='truncate', **options)
    return np.array([line['embedding'] for line in read_lines(run.jsonl)], np.float32)

def our_pipeline_ray(corpus, card, folder, out): return our_pipeline(corpus, card, folder, out, engine='ray', devices=','.join('cuda' if GPU else 'cpu' for _ in DEVICES))

def plain_script(corpus, card, folder, out):
    "What people write: read all, `encode`, a line of JSON for each."
    chunks = [c for f in sorted(Path(corpus).rglob('*_chunks.json')) for c in json.loads(f.read_text())['chunks']]
    vectors = sentence_model(folder).encode([c['content'] for c in chunks])
    out.mkdir()
    with open(out/'plain.jsonl', 'w') as file:
        for c,v in zip(chunks, vectors, strict=True): file.write(json.dumps(dict(text=c['content'], embedding=v.tolist(), metadata=c['metadata'])) + '\n')
    return vectors

def llama_index(corpus, card, folder, out):
    "Its ingestion: nodes of the chunks, an embedding model in a pipeline, a vector store that is persisted."
    from llama_index.core import StorageContext, VectorStoreIndex
    from llama_index.core.ingestion import IngestionPipeline
    from llama_index.core.schema import TextNode
    from llama_index.embeddings.huggingface import HuggingFaceEmbedding
    nodes = [TextNode(text=c.text) for c in read_corpus(corpus).chunks]
    model = HuggingFaceEmbedding(model_name=str(folder), embed_batch_size=32, device=DEVICE, max_length=card.max_length, **half())
    done = IngestionPipeline(transformations=[model]).run(nodes=nodes)
    VectorStoreIndex(done, storage_context=StorageContext.from_defaults(), embed_model=model).storage_context.persist(str(out))
    return np.array([n.embedding for n in done], np.float32)

def txtai(corpus, card, folder, out):
    "Its index, with the texts beside the vectors; exact, and not reduced."
    from txtai import Embeddings
    chunks = read_corpus(corpus).chunks
    index = Embeddings(path=str(folder), content=True, gpu=GPU, backend='numpy', encodebatch=32, maxlength=card.max_length)
    index.index((c.id, c.text, None) for c in chunks)
    index.save(str(out))
    return np.array(index.ann.backend, np.float32)

class Embed:
    "What an actor of Ray Data does."
    def __init__(self, folder):
        if not GPU: torch.set_num_threads(max(os.cpu_count() // len(DEVICES), 1))
        self.model = sentence_model(folder)
    def __call__(self, batch): return batch | dict(v=self.model.encode(list(batch['text']), normalize_embeddings=True, show_progress_bar=False))

def ray_data(corpus, card, folder, out):
    "A dataset of the chunks, `map_batches` with a class that holds the model, as many of them as there are workers, Parquet at the end."
    import pyarrow.parquet as pq, ray
    ray.init(logging_level='ERROR', log_to_driver=False, include_dashboard=False, num_cpus=None if GPU else len(DEVICES),
             runtime_env=dict(env_vars=dict(PYTHONPATH=os.pathsep.join([str(ROOT), str(ROOT/'tests'), *filter(None, sys.path)]))))
    rows = [dict(i=i, text=c.text) for i,c in enumerate(read_corpus(corpus).chunks)]
    one = dict(num_gpus=1) if GPU else dict(num_cpus=1)
    done = ray.data.from_items(rows, override_num_blocks=2 * len(DEVICES)).map_batches(Embed, fn_constructor_args=(str(folder),), batch_size=64, compute=ray.data.ActorPoolStrategy(size=len(DEVICES)), **one)
    done.write_parquet(str(out))
    found = pq.read_table(out).sort_by('i')
    return np.array(found['v'].to_pylist(), np.float32)

PIPELINES = {'coderank_qdrant': our_pipeline, 'coderank_qdrant, --engine ray': our_pipeline_ray, 'a script with encode': plain_script, 'Ray Data': ray_data, 'LlamaIndex': llama_index, 'txtai': txtai}

def installed(name): # '' or the line that installs it
    package, line = INSTALL.get(name, ('torch', ''))
    try: version(package)
    except PackageNotFoundError: return line
    return ''

def timed(call):
    start = time.perf_counter()
    out = call()
    return time.perf_counter() - start, out

def apart(name, corpus, tmp):
    "A pipeline in a process of its own, from the start of Python to its end: seconds, and the vectors."
    start = time.perf_counter()
    done = subprocess.run([sys.executable, __file__, str(corpus), '--pipeline', name, '--out', str(tmp)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    took = time.perf_counter() - start
    if done.returncode: raise RuntimeError(done.stderr.strip().splitlines()[-1])
    return took, np.load(tmp/'vectors.npy')

def agree(mine, theirs): return float((mine * theirs).sum(1).min())

class Ways:
    "What runs in turn, what each took, and what had to be left out."
    def __init__(self, until): self.until, self.took, self.notes = until, {}, {}
    def row(self, name, count, ours):
        times = self.took[name]
        ratios = [t / o for t,o in zip(times, ours, strict=False)]
        return dict(name=name, chunks_per_second=round(count / statistics.median(times), 1), times_ours=round(statistics.median(ratios), 2),
                    spread=[round(min(ratios), 2), round(max(ratios), 2)], rounds=len(times), **({'note': self.notes[name]} if name in self.notes else {}))
    def rows(self, count): return sorted((self.row(n, count, self.took['coderank_qdrant']) for n in self.took), key=lambda r: r['times_ours'])

def left_out(name, why): return dict(name=name, why=why)

def try_to(name, call, missing):
    "What `call` gives, or None and a word why."
    line = installed(name)
    if line: missing.append(left_out(name, f'not installed: {line}'))
    else:
        try: return call()
        except Exception as e: missing.append(left_out(name, f'{type(e).__name__}: {e}'.split('\n')[0][:200]))
    print(f'{name} is left out: {missing[-1]["why"]}', file=sys.stderr)

def engines(texts, card, folder, rounds, until):
    "The model alone."
    ways, missing, ready, best, mine = Ways(until), [], {}, {}, None
    work = texts[::4]  # what all of them embed: a part, until each has found its best batch size
    for name,make in ENGINES.items():
        def begin(name=name, make=make):
            run, close, sizes = make(work, card, folder)
            firsts = [(*timed(lambda s=s: run(s)), s) for s in sizes]
            return run, close, min(firsts, key=lambda f: f[0])
        if (got := try_to(name, begin, missing)) is None: continue
        run, close, (took, out, size) = got
        mine = out if mine is None else mine
        if agree(mine, out) < LEAST: missing.append(left_out(name, f'its vectors are others: cosine {agree(mine, out):.4f}')); close(); continue
        ready[name], best[name], ways.took[name] = (run, close), size, []
        if size: ways.notes[name] = f'batches of {size}' if isinstance(size, int) else f'{len(size.split(","))} x {size.split(",")[0]}'
        print(f'{name}: ready, {took:.1f} s, {ways.notes.get(name, "its own batches")}', file=sys.stderr, flush=True)
    work[:] = texts
    for r in range(rounds):
        if r and time.time() > until: break
        for name,(run, _) in ready.items(): ways.took[name].append(timed(lambda run=run, name=name: run(best[name]))[0])
        print(f'engines: round {r + 1} of {rounds}', file=sys.stderr, flush=True)
    for _,close in ready.values(): close()
    return ways.rows(len(texts)), missing

def pipelines(corpus, count, rounds, until):
    "From chunk files to vectors on the disk."
    ways, missing = Ways(until), []
    for r in range(rounds):
        if r > 0 and time.time() > until: break
        mine = None
        for name in PIPELINES:
            if r and name not in ways.took: continue
            tmp = Path(tempfile.mkdtemp())
            try: got = try_to(name, lambda name=name, tmp=tmp: apart(name, corpus, tmp), missing)
            finally: shutil.rmtree(tmp)
            if got is None: ways.took.pop(name, None); continue
            took, out = got
            mine = out if mine is None else mine
            if len(out) != count or agree(mine, out) < LEAST: missing.append(left_out(name, f'it wrote {len(out)} of {count} vectors, cosine {agree(mine, out) if len(out) == count else 0:.4f}')); continue
            ways.took.setdefault(name, []).append(took)
        print(f'pipelines: round {r + 1} of {rounds}', file=sys.stderr, flush=True)
    return ways.rows(count), missing

def some_of(corpus, n, into):
    "A corpus of its first files in even steps, n chunks or a few more: with all its duplicates in them."
    files = sorted(Path(corpus).rglob('*_chunks.json'))
    taken = 0
    for i,f in enumerate(files):
        if taken > n * (i + 1) / len(files): continue
        (into/f.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copy(f, into/f.parent.name/f.name)
        taken += len(json.loads(f.read_text())['chunks'])
    return into

def machine():
    "In words."
    if GPU: return f'{torch.cuda.device_count()} x {torch.cuda.get_device_name(0)}, fp16'
    return f'{os.cpu_count()} CPU cores, fp32'

def table(rows, missing):
    lines = ['| | chunks/s | time, ours = 1 | least and most | rounds |', '|---|---|---|---|---|']
    lines += [f'| {r["name"]}{", " + r["note"] if "note" in r else ""} | {r["chunks_per_second"]} | {r["times_ours"]:.2f} | {r["spread"][0]:.2f} to {r["spread"][1]:.2f} | {r["rounds"]} |' for r in rows]
    return '\n'.join(lines + [f'Not measured: {m["name"]} ({m["why"]})' for m in missing])

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('corpus', nargs='?', default=ROOT.parent/'shared/qdrant_ecosystem', type=Path)
    p.add_argument('--chunks', type=int, default=4000 if GPU else 100, help='of the model alone')
    p.add_argument('--whole', type=int, default=4000 if GPU else 150, help='of the pipelines')
    p.add_argument('--rounds', type=int, default=5)
    p.add_argument('--minutes', type=float, default=9, help='after which no round begins')
    p.add_argument('--out', type=Path, default=ROOT/'nbs/measured_peers.json')
    p.add_argument('--pipeline', choices=PIPELINES, help=argparse.SUPPRESS)
    args = p.parse_args()
    if args.pipeline:
        card, folder, _ = find_model('all-MiniLM-L6-v2')
        return np.save(args.out/'vectors.npy', PIPELINES[args.pipeline](args.corpus, card, folder, args.out/'out'))
    begun, load = time.time(), round(os.getloadavg()[0], 1)
    commit = subprocess.run(['git', 'rev-parse', '--short', 'HEAD'], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    if not args.corpus.is_dir():
        from coderank_qdrant.chunking import demo_corpus
        args.corpus = demo_corpus(tempfile.mkdtemp())
    tmp = Path(tempfile.mkdtemp())
    try:
        corpus = some_of(args.corpus, args.whole, tmp/'corpus')
        chunks = read_corpus(corpus).chunks
        every = list(dict.fromkeys(c.text for c in read_corpus(args.corpus).chunks))
        texts = every[::max(len(every) // args.chunks, 1)][:args.chunks]
        card, folder, _ = find_model('all-MiniLM-L6-v2')
        alone, missing = engines(texts, card, folder, args.rounds, begun + 30 * args.minutes)
        print(f'\nThe model alone, {len(texts)} texts\n\n{table(alone, missing)}\n', flush=True)
        whole, missing_whole = pipelines(corpus, len(chunks), args.rounds, begun + 60 * args.minutes)
        print(f'\nWhole pipelines, {len(chunks)} chunks, {len({c.text for c in chunks})} texts\n\n{table(whole, missing_whole)}\n', flush=True)
    finally: shutil.rmtree(tmp)
    used = {}
    for package in 'torch', 'sentence-transformers', 'onnxruntime', 'fastembed', 'llama-index-core', 'txtai', 'ray':
        with suppress(PackageNotFoundError): used[package] = version(package)
    facts = dict(command=' '.join(['python tests/bench_peers.py', *(a for a in sys.argv[1:] if a.startswith('--') or a.replace('.', '').isdigit())]), date=date.today().isoformat(), commit=commit, machine=machine(), gpu=GPU, workers=len(DEVICES), python=platform.python_version(), versions=used,
                 texts=len(texts), alone=alone, alone_missing=missing, chunks=len(chunks), distinct=len({c.text for c in chunks}), whole=whole, whole_missing=missing_whole,
                 seconds=round(time.time() - begun), load=round(os.getloadavg()[0], 1), load_before=load)
    record = json.loads(args.out.read_text()) if args.out.exists() else {}
    args.out.write_text(json.dumps({**record, 'gpu' if GPU else 'cpu': facts}, indent=1) + '\n')
    print(f'{facts["machine"]}, commit {commit}, {facts["seconds"]} s; written to {args.out.name}')

if __name__ == '__main__': main()
