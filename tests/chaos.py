"""Make writes, renames and commits fail at every place that has a name, and see that nothing comes of it.

Each seed chunks, embeds and indexes a small folder, with up to three faults on the way, each in a process of its own: the
process dies there, the disk is full, half of what was written is there, or somebody presses Ctrl-C. Then the same commands run
undisturbed, and what they leave has to be what they leave where nothing ever went wrong.

    python tests/chaos.py --seed 0 --seeds 500
"""
import argparse, errno, hashlib, json, os, random, shutil, signal, sqlite3, sys, tempfile, time, traceback
from collections import Counter
from pathlib import Path
os.environ.setdefault('OMP_NUM_THREADS', '1')  # a process that has threads of its own cannot be forked
import numpy as np, orjson
from coderank_qdrant import work
from coderank_qdrant.command import run_command
from coderank_qdrant.chunking import coderank_chunk
from coderank_qdrant.index import coderank_index
from coderank_qdrant.pipeline import coderank_embed
from coderank_qdrant.places import HOOKS, PLACES
from coderank_qdrant.stores import opened

SOURCES = 'show.py', 'command.py', 'chunks.py', 'content.py', 'memory.py'
KINDS = 'die', 'full', 'broken', 'interrupt', 'half'
ENDS = 0, 2, 130, 137  # done; a sentence; Ctrl-C; dead
work.TOKENS_HELD, work.AT_ONCE = 0, 4  # token ids are kept in a file, as those of a large corpus are, in several slices

def make_source(folder):
    "A few files of this package, one of them twice, and a text."
    import coderank_qdrant
    package = Path(coderank_qdrant.__file__).parent
    (folder/'sub').mkdir(parents=True)
    for name in SOURCES: shutil.copy(package/name, folder/name)
    shutil.copy(package/SOURCES[0], folder/'sub'/SOURCES[0])
    (folder/'read.md').write_text('# Chaos\n\nA text about faults.\n\n## Places\n\nEach has a name.\n')
    return folder

def apart(task, log):
    "Do something in a process of its own; gives its exit code."
    pid = os.fork()
    if pid:
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        return code if code >= 0 else 128 - code
    code = 70
    try:
        with open(log, 'ab', buffering=0) as file:
            for stream in 1, 2: os.dup2(file.fileno(), stream)
        code = task()
    except BaseException: traceback.print_exc()
    finally: os._exit(code)

def commands(source, model, folder):
    "The three commands, one after the other, as long as they end well."
    chunks, out, index = (str(folder/name) for name in ('chunks', 'out', 'index'))
    for command, *args in ((coderank_chunk, str(source), chunks), (coderank_embed, chunks, '--out', out, '--profile', str(model), '--collection', 'chaos'),
                           (coderank_index, out, '--location', index)):
        code = run_command(command.__wrapped__, [*args, '--debug'])
        if code: return code
    return 0

class Fault:
    "Something that goes wrong at one of the places that are passed."
    def __init__(self, kind, at): self.kind, self.left = kind, at

    def __call__(self, place, file):
        self.left -= 1
        if self.left: return
        print(f'{self.kind} at {place}', file=sys.stderr, flush=True)
        if self.kind == 'interrupt': raise KeyboardInterrupt
        if self.kind == 'half' and file: self.halve(file)
        if self.kind in ('die', 'half'): os.kill(os.getpid(), signal.SIGKILL)
        if place.startswith('cache.'): raise sqlite3.OperationalError('database or disk is full' if self.kind == 'full' else 'disk I/O error')
        number = errno.ENOSPC if self.kind == 'full' else errno.EIO
        raise OSError(number, os.strerror(number))

    def halve(self, file):
        "Half of what was to be written is on the disk."
        file.flush()
        if file.mode.startswith('a'): os.write(file.fileno(), b'{"half": ')
        else: file.truncate(file.tell() // 2)

def count_places(source, model, folder):
    "How often a run that nothing disturbs passes each place."
    passed = Counter()
    def count():
        HOOKS.append(lambda place, _: passed.update([place]))
        code = commands(source, model, folder)
        (folder/'places.json').write_text(json.dumps(passed))
        return code
    assert apart(count, folder/'log') == 0, (folder/'log').read_text()
    return json.loads((folder/'places.json').read_text())

def what_is_there(folder):
    "All that the commands leave, as far as it may not differ: lines without vectors, vectors, points, files."
    lines = [json.loads(line) for line in open(folder/'out/chaos_embeddings.jsonl')]
    vectors = np.array([line.pop('embedding') for line in lines])
    summary = json.loads((folder/'out/chaos_embedding_summary.json').read_text())
    account = {key: summary[key] for key in ('total_chunks', 'total_embeddings', 'quarantined', 'account')}
    chunks = {str(p.relative_to(folder/'chunks')): hashlib.sha256(p.read_bytes()).hexdigest() for p in (folder/'chunks').rglob('*') if p.is_file()}
    with opened(folder/'index') as store:
        ids = sorted(store.ids())
        payloads = store.payloads(ids)
        points = [[i, payloads[i]] for i in ids]
    return dict(lines=lines, account=account, chunks=chunks, points=points), vectors

def left_behind(folder):
    "Files that no finished command leaves."
    return sorted(str(p.relative_to(folder)) for p in folder.rglob('*') if p.name.endswith(('.part', '-journal', work.IDS)))

def show_all(folder):
    "The same, written down by a process that may use the search engine."
    def show():
        there, vectors = what_is_there(folder)
        (folder/'there.json').write_bytes(orjson.dumps(there, option=orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS))
        np.save(folder/'there.npy', vectors)
        return 0
    assert apart(show, folder/'log') == 0, (folder/'log').read_text()
    return (folder/'there.json').read_bytes(), np.load(folder/'there.npy')

def one_seed(seed, source, model, folder, places, usual):
    "Faults, then an undisturbed run; gives what is wrong, or ''."
    rng, log = random.Random(seed), folder/'log'
    for _ in range(rng.randint(1, 3)):
        place = rng.choice(list(places))  # the rare ones as often as the frequent
        fault = Fault(rng.choice(KINDS), rng.randint(1, places[place]))
        def disturbed(fault=fault, place=place):
            HOOKS.append(lambda here, file: fault(here, file) if here == place else None)
            return commands(source, model, folder)
        code = apart(disturbed, log)
        if code not in ENDS: return f'ended with {code}'
    if apart(lambda: commands(source, model, folder), log): return 'the undisturbed run failed'
    there, vectors = show_all(folder)
    if there != usual[0]: return 'what is there differs'
    if (vectors * usual[1]).sum(1).min() < .99999: return 'a vector differs'
    if left := left_behind(folder): return f'left behind: {left}'
    return ''

def run_seeds(seeds, model, folder):
    "Gives what went wrong, by seed, and the places that every fault could be at."
    source = make_source(folder/'source')
    (folder/'usual').mkdir()
    places = count_places(source, model, folder/'usual')
    usual = show_all(folder/'usual')
    wrong = {}
    for seed in seeds:
        mine = folder/str(seed)
        mine.mkdir()
        if why := one_seed(seed, source, model, mine, places, usual):
            wrong[seed] = why
            log = (mine/'log').read_text()[-3000:]
            print(f'Seed {seed}: {why}\n{log}\nAgain: python tests/chaos.py --seed {seed} --seeds 1\n', flush=True)
        shutil.rmtree(mine)
    return wrong, places

def main():
    from conftest import make_bert
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--seed', type=int, default=0, help='the first seed')
    parser.add_argument('--seeds', type=int, default=500, help='how many')
    args = parser.parse_args()
    start = time.time()
    with tempfile.TemporaryDirectory() as tmp:
        folder = Path(tmp)
        apart(lambda: make_bert(folder/'tiny-bert') and 0, folder/'log')
        wrong, places = run_seeds(range(args.seed, args.seed + args.seeds), folder/'tiny-bert', folder)
    missing = set(PLACES) - set(places)
    print(f'{args.seeds} seeds from {args.seed}, {len(wrong)} with a difference, {len(places)} of {len(PLACES)} places passed '
          f'({", ".join(sorted(missing)) or "none"} not), {time.time() - start:.0f} s')
    return bool(wrong)

if __name__ == '__main__': sys.exit(main())
