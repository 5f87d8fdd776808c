"The true reason in one line, and runs that end well whoever reads what they say."
import errno, http.server, json, os, shutil, subprocess, sys, threading, time
import pytest
from conftest import write_file
from coderank_qdrant.command import InputError

# Imports the commands once, and forks for each case, so that a case costs no more than what it does.
DRIVER = '''
import json, os, pty, resource, signal, sys, threading
import coderank_qdrant.chunking, coderank_qdrant.evaluate, coderank_qdrant.index, coderank_qdrant.pipeline, coderank_qdrant.search
from coderank_qdrant.command import run_command

def opened(kind, file):
    "A descriptor for a stream of this kind."
    if kind == 'full': return os.open('/dev/full', os.O_WRONLY)
    if kind != 'gone': return os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    reader, writer = os.pipe()
    os.close(reader)
    return writer

def read_all(fd, file):
    "What is shown in a terminal, as long as there is one."
    with open(file, 'wb') as kept:
        try:
            while part := os.read(fd, 10**4): kept.write(part)
        except OSError: pass

def child(case, number):
    reader = None
    for fd,name in (1, 'out'), (2, 'err'):
        kind = case.get(name, 'file')
        if kind == 'pty':
            master, end = pty.openpty()
            os.dup2(end, fd)
            os.close(end)
            reader = threading.Thread(target=read_all, args=(master, f'{number}.{name}'))
            reader.start()
        else: os.dup2(opened(kind, f'{number}.{name}'), fd)
        stream = open(fd, 'w', encoding=case.get('encoding', 'utf-8'), buffering=1, closefd=False)
        setattr(sys, 'std' + name, None if kind == 'closed' else stream)
        if kind == 'closed': os.close(fd)
    if case.get('nohup'): signal.signal(signal.SIGHUP, signal.SIG_IGN)
    if case.get('nohup'): signal.setitimer(signal.ITIMER_REAL, .01)
    signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGHUP))
    if case.get('files'): resource.setrlimit(resource.RLIMIT_NOFILE, (case['files'], case['files']))
    module, name = case['command'].split('.')
    code = run_command(getattr(sys.modules[f'coderank_qdrant.{module}'], name).__wrapped__, case['args'])
    if reader:
        os.dup2(opened('file', 'nothing'), 1)
        reader.join()
    sys.exit(code)

codes = []
for number,case in enumerate(json.load(open('cases.json'))):
    pid = os.fork()
    if not pid: child(case, number)
    codes.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
json.dump(codes, open('codes.json', 'w'))
'''

def drive(folder, cases, before=''):
    "(exit code, standard output, standard error) of each case."
    (folder/'driver.py').write_text(DRIVER)
    (folder/'cases.json').write_text(json.dumps(cases))
    env = {**os.environ, 'PYTHONPATH': os.pathsep.join(map(os.path.abspath, filter(None, sys.path))), 'OMP_NUM_THREADS': '1'}
    p = subprocess.run(['bash', '-c', f'{before} exec {PRIVILEGE} {sys.executable} driver.py'], cwd=folder, env=env, capture_output=True, text=True, timeout=500)
    assert (folder/'codes.json').exists(), p.stderr
    def read(name): return (folder/name).read_text(encoding='utf-8') if (folder/name).exists() else ''
    codes = json.loads((folder/'codes.json').read_text())
    return [(code, read(f'{i}.out'), read(f'{i}.err')) for i,code in enumerate(codes)]

# root may write everywhere, unless it gives that up
PRIVILEGE = 'setpriv --bounding-set=-dac_override,-dac_read_search' if os.geteuid() == 0 and shutil.which('setpriv') else ''
MOUNTS = bool(shutil.which('unshare')) and subprocess.run(['unshare', '-m', 'true'], capture_output=True).returncode == 0

@pytest.fixture(scope='module')
def whole(tiny, tmp_path_factory):
    "A source, a corpus, a finished run, its collection, and a question."
    root = tmp_path_factory.mktemp('whole')
    write_file(root/'in', 'docs/a_chunks.json', ['a text of the caf\u00e9', 'another text'])
    (root/'src').mkdir()
    (root/'src/a.md').write_text('# Caf\u00e9\n\nA text of several words.\n' + 'Words and more words, line by line.\n\n' * 300)
    code = ('from coderank_qdrant.pipeline import embed_corpus as e; from coderank_qdrant.index import index_run as i\n'
            f'i(e("in", "out", profile={str(tiny)!r}, devices="cpu"), "index")')
    subprocess.run([sys.executable, '-c', code], cwd=root, check=True, capture_output=True)  # a process of its own: Edge's threads are not forked
    line = json.loads((root/'out/in_embeddings.jsonl').read_text().splitlines()[0])
    (root/'q.jsonl').write_text(json.dumps(dict(qid='1', query='caf\u00e9', judgments={line['metadata']['text_hash']: 1})))
    return root

SEARCH = dict(command='search.coderank_search', args=['caf\u00e9', '--location', 'index', '--mode', 'sparse'])
CALLS = dict(search=SEARCH, json={**SEARCH, 'args': [*SEARCH['args'], '--json']},
             index=dict(command='index.coderank_index', args=['out', '--location', 'made', '--json']),
             chunk=dict(command='chunking.coderank_chunk', args=['src', 'tree']),
             evaluate=dict(command='evaluate.coderank_evaluate', args=['--location', 'index', '--queries', 'q.jsonl', '--mode', 'sparse']))
WAYS = dict(nobody_reads_errors=dict(err='gone'), errors_closed=dict(err='closed'), errors_on_a_full_disk=dict(err='full'), nobody_reads=dict(out='gone'),
            closed=dict(out='closed'), on_a_full_disk=dict(out='full'), ascii=dict(encoding='ascii'), both_gone=dict(out='gone', err='gone'), terminal=dict(out='pty'),
            nohup=dict(nohup=True), few_files=dict(files=64))

@pytest.fixture(scope='module')
def streams(whole, tmp_path_factory):
    root = shutil.copytree(whole, tmp_path_factory.mktemp('streams')/'w')
    cases = {(call, way): {**CALLS[call], **how} for call in CALLS for way,how in WAYS.items()}
    return dict(zip(cases, drive(root, list(cases.values())), strict=True))

@pytest.mark.parametrize('way', WAYS)
@pytest.mark.parametrize('call', CALLS)
def test_a_command_ends_well_whoever_reads_it(call, way, streams):
    code, out, err = streams[call, way]
    lost = way == 'on_a_full_disk' and call != 'chunk'  # whose lines all go to standard error
    assert code == (2 if lost else 0), err
    assert 'Traceback' not in err and 'fault of this program' not in err
    if lost: assert 'standard output cannot be used: its disk is full' in err
    if call in ('json', 'index') and not lost and WAYS[way].get('out', 'pty') == 'pty': json.loads(out)
    if call == 'search' and way == 'ascii': assert 'a text of the caf?' in out
    if call == 'chunk': assert not out, 'what is for people goes to standard error, or nowhere'

def test_a_run_goes_on_without_its_reader(whole, tiny, tmp_path):
    "Nobody reads its lines from the start; workers are started, vectors computed, files written."
    from conftest import summary_of
    reader, writer = os.pipe()
    os.close(reader)
    code = 'import sys; from coderank_qdrant.pipeline import coderank_embed as c; sys.exit(c())'
    args = [sys.executable, '-c', code, str(whole/'in'), '--out', str(tmp_path/'out'), '--profile', str(tiny), '--devices', 'cpu,cpu']
    assert subprocess.run(args, stdout=writer, stderr=writer, timeout=300).returncode == 0
    assert summary_of(tmp_path/'out', 'in')['total_embeddings'] == 2

DENIED, READ_ONLY, FULL, NOT_HERE = 'is not allowed to', 'its disk can only be read', 'its disk is full', 'a file or a broken link of this name is there'
EMBED = 'pipeline.coderank_embed', 'in', '--profile', 'TINY', '--devices', 'cpu', '--out'
INDEX, CHUNK = ('index.coderank_index', 'out', '--location'), ('chunking.coderank_chunk', 'src')
REASONS = {
    'embed denied': (*EMBED, 'denied/out', 2, f'denied/out cannot be used: this user {DENIED}'),
    'cache denied': (*EMBED, 'theirs', 2, f'theirs/vectors.sqlite cannot be used: this user {DENIED}'),
    'index denied': (*INDEX, 'denied/index', 2, f'denied/index cannot be used: this user {DENIED}'),
    'chunk denied': (*CHUNK, 'denied/tree', 2, f'denied/tree.part cannot be used: this user {DENIED}'),
    'index of others denied': (*INDEX, 'closed', 2, f'closed cannot be used: this user {DENIED}'),
    'search in what cannot be written': ('search.coderank_search', 'text', '--mode', 'sparse', '--location', 'closed', 0, 'It is searched in a copy of'),
    'run that cannot be read': ('index.coderank_index', 'secret', '--location', 'new', 2, f'vectors.sqlite cannot be used: this user {DENIED}'),
    'embed read-only': (*EMBED, 'ro/out', 2, f'ro/out cannot be used: {READ_ONLY}'),
    'index read-only': (*INDEX, 'ro/index', 2, f'ro/index cannot be used: {READ_ONLY}'),
    'chunk read-only': (*CHUNK, 'ro/tree', 2, f'ro/tree.part cannot be used: {READ_ONLY}'),
    'cache read-only': (*EMBED, 'ro/out2', 2, f'ro/out2/vectors.sqlite cannot be used: {READ_ONLY}'),
    'search read-only': ('search.coderank_search', 'text', '--mode', 'sparse', '--location', 'ro/index', 0, 'It is searched in a copy of'),
    'evaluate read-only': ('evaluate.coderank_evaluate', '--mode', 'sparse', '--queries', 'q.jsonl', '--location', 'ro/index', 0, 'It is searched in a copy of'),
    'embed full': (*EMBED, 'small/out', 2, f'small/out/vectors.sqlite cannot be used: {FULL}'),
    'index full': (*INDEX, 'small/index', 2, 'small/index needs about 64'),
    'chunk full': (*CHUNK, 'small/tree', 2, f'small/tree.part cannot be used: {FULL}'),
    **{f'embed into a {kind}': (*EMBED, kind, 2, f'{kind} cannot be used: {NOT_HERE}') for kind in ('file', 'pipe', 'link')},
    **{f'index into a {kind}': (*INDEX, kind, 2, 'is there and is no collection' if kind != 'link' else NOT_HERE) for kind in ('file', 'pipe', 'link')},
    **{f'chunk into a {kind}': (*CHUNK, kind, 2, 'is a file. Name a folder' if kind != 'link' else NOT_HERE) for kind in ('file', 'pipe', 'link')},
    'cache is a pipe': (*EMBED, 'pipes', 2, 'pipes/vectors.sqlite cannot be used: it is no plain file'),
    'metrics are a pipe': (*EMBED, 'pipes2', 2, 'pipes2/metrics.jsonl cannot be used: it is no plain file'),
    'cache is a folder': (*EMBED, 'folders', 2, 'folders/vectors.sqlite cannot be used: it is a folder'),
}
NEEDS_MOUNTS = [name for name in REASONS if 'read-only' in name or 'full' in name]

@pytest.fixture(scope='module')
def reasons(whole, tiny, tmp_path_factory):
    root = shutil.copytree(whole, tmp_path_factory.mktemp('reasons')/'w')
    for name in 'denied', 'ro', 'small', 'theirs', 'pipes', 'pipes2', 'folders/vectors.sqlite': (root/name).mkdir(parents=True)
    for name in 'closed', 'ro/index': shutil.copytree(root/'index', root/name)
    for name in 'ro/out2', 'secret': shutil.copytree(root/'out', root/name)
    shutil.copy(root/'out/vectors.sqlite', root/'theirs')
    (root/'file').write_text('x')
    for name in 'pipe', 'pipes/vectors.sqlite', 'pipes2/metrics.jsonl': os.mkfifo(root/name)
    (root/'link').symlink_to(root/'nowhere/at/all')
    for path in root/'denied', root/'theirs', root/'closed', *(root/'closed').rglob('*'): path.chmod(path.stat().st_mode & ~0o222)
    (root/'secret/vectors.sqlite').chmod(0)
    names = [name for name in REASONS if MOUNTS or name not in NEEDS_MOUNTS]
    cases = [dict(command=REASONS[name][0], args=[str(tiny) if arg == 'TINY' else arg for arg in REASONS[name][1:-2]]) for name in names]
    before = 'unshare -m bash -c "mount --bind ro ro && mount -o remount,ro,bind ro && mount -t tmpfs -o size=16k none small &&' if MOUNTS else ''
    global PRIVILEGE
    kept = PRIVILEGE
    if MOUNTS: before, PRIVILEGE = f'{before} exec {kept} {sys.executable} driver.py" ;', 'true'
    try: return dict(zip(names, drive(root, cases, before), strict=True))
    finally:
        PRIVILEGE = kept
        for path in root/'denied', root/'theirs', root/'closed', *(root/'closed').rglob('*'): path.chmod(path.stat().st_mode | 0o200)

@pytest.mark.parametrize('name', REASONS)
def test_the_true_reason_is_said(name, reasons):
    if name not in reasons: pytest.skip('nothing can be mounted here')
    *_, wanted, says = REASONS[name]
    code, _, err = reasons[name]
    assert (code, says in err) == (wanted, True), err
    assert 'Errno' not in err and 'Traceback' not in err

@pytest.fixture
def holding():
    "Starts a process that runs a line of Python and then waits; ends it."
    started = []
    def hold(code):
        started.append(subprocess.Popen([sys.executable, '-c', f'{code}\nprint(1, flush=True)\ninput()'], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        assert started[-1].stdout.readline() == '1\n'
        return started[-1].pid
    yield hold
    for process in started: process.communicate('\n', timeout=240)

def test_whoever_has_a_cache_is_named(holding, tmp_path):
    from coderank_qdrant.cache import VectorCache
    pid = holding(f'from coderank_qdrant.cache import VectorCache; c = VectorCache({str(tmp_path/"vectors.sqlite")!r})')
    with pytest.raises(InputError, match=rf'vectors.sqlite is in use by process {pid} \(python.*\)\. Wait for it, or name another --out'): VectorCache(tmp_path/'vectors.sqlite')

def test_the_second_indexer_is_told_of_the_first(holding, whole, tmp_path):
    "Also while the first one is making the collection, which the second one would have removed."
    from coderank_qdrant.index import index_run
    (tmp_path/'index/.shard.part').mkdir(parents=True)
    pid = holding(f'from pathlib import Path; from coderank_qdrant.places import taken; t = taken(Path({str(tmp_path/"index")!r}))')
    with pytest.raises(InputError, match=f'is in use by process {pid} '): index_run(whole/'out', tmp_path/'index')
    assert (tmp_path/'index/.shard.part').is_dir()

def test_the_second_reader_is_told_of_the_first(holding, whole, tmp_path):
    from coderank_qdrant.search import search
    index = shutil.copytree(whole/'index', tmp_path/'index')
    pid = holding(f'from coderank_qdrant.stores import open_store; s = open_store({str(index)!r})')
    with pytest.raises(InputError, match=f'index is in use by process {pid} '): search('text', index, mode='sparse', device='cpu')

def test_whoever_is_told_that_an_index_is_in_use_has_touched_nothing_of_it(whole, tmp_path):
    "Edge opens and puts right all files before it sees that somebody has them."
    from coderank_qdrant.search import search
    from coderank_qdrant.stores import open_store
    index = shutil.copytree(whole/'index', tmp_path/'index')
    def files(): return {path: (about.st_ino, about.st_size, about.st_mtime_ns) for path in index.rglob('*') for about in [path.stat()] if path.is_file()}
    with open_store(index):
        before = files()
        for kept_out in lambda: search('text', index, mode='sparse', device='cpu'), lambda: open_store(index):
            with pytest.raises(InputError, match='index is in use by this process itself. Wait for it, or name another --location'): kept_out()
        assert files() == before

def test_a_question_waits_for_somebody_who_is_soon_done(whole, tmp_path):
    from coderank_qdrant.places import taken
    from coderank_qdrant.search import search
    lock = taken(shutil.copytree(whole/'index', tmp_path/'index'))
    start = time.monotonic()
    threading.Timer(1, lock.close).start()
    assert search('text', tmp_path/'index', mode='sparse', device='cpu') and time.monotonic() - start >= 1

def test_a_lock_that_nobody_tells_about(tmp_path, monkeypatch):
    from coderank_qdrant import places
    monkeypatch.setattr(places, 'lock_holders', lambda path: [])
    with places.taken(tmp_path), pytest.raises(InputError, match='in use by another process'): places.taken(tmp_path)

def test_files_that_go_while_a_folder_is_looked_through(tmp_path):
    "An index merges its segments while others read it: what was listed is gone a moment later."
    from coderank_qdrant import edge, index, places
    done = threading.Event()
    def merge():
        while not done.is_set():
            for name in 'abcdef':
                (tmp_path/name/'segment').mkdir(parents=True)
                (tmp_path/name/'segment/vectors').write_text(name)
            for name in 'abcdef': shutil.rmtree(tmp_path/name)
    thread = threading.Thread(target=merge)
    thread.start()
    try:
        for _ in range(300):
            places.lock_holders(tmp_path)
            index.check_room(tmp_path, [__file__], free=10**12)
            assert edge.can_be_written(tmp_path)
    finally:
        done.set()
        thread.join()

def test_a_copy_that_does_not_fit_is_refused(whole, monkeypatch):
    from coderank_qdrant import edge
    monkeypatch.setattr(edge, 'can_be_written', lambda folder: False)
    monkeypatch.setattr(edge, 'free_bytes', lambda folder: 1000)
    with pytest.raises(InputError, match='its copy of .* KB does not fit into .* where 1.0 KB are free. Name a larger folder in TMPDIR'): edge.writable_copy(whole/'index/shard')

ANSWERS = dict(null=b'null', object=b'{}', list=b'[]', html=b'<html>Welcome to nginx</html>', nothing=b'', bytes=b'\xff\xfe\x00', result=b'{"result": null, "status": "ok", "time": 0}',
               collections=b'{"result": {"collections": null}, "status": "ok", "time": 0}', deep=b'[' * 100_000)

@pytest.fixture(scope='module')
def server():
    "A server that answers everything with the same bytes."
    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *_): pass
        def do_GET(self):
            self.rfile.read(int(self.headers.get('Content-Length') or 0))
            self.send_response(200)
            self.send_header('Content-Length', str(len(self.server.answer)))
            self.end_headers()
            self.wfile.write(self.server.answer)
        do_PUT = do_POST = do_PATCH = do_GET
    found = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
    threading.Thread(target=found.serve_forever, daemon=True).start()
    yield found
    found.shutdown()

@pytest.mark.parametrize('way', ['', '/collections/mine'])
@pytest.mark.parametrize('kind', ANSWERS)
def test_a_server_that_is_none_of_qdrants(kind, way, server, whole, monkeypatch):
    from coderank_qdrant.index import index_run
    from coderank_qdrant.search import search
    server.answer = ANSWERS[kind]
    location = f'http://127.0.0.1:{server.server_port}{way}'
    for call in lambda: search('text', location, mode='sparse', device='cpu'), lambda: index_run(whole/'out', location):
        with pytest.raises(InputError, match=r'does not answer as Qdrant does \(.*\)\. Is this its address\?$'): call()

def test_without_a_home_nothing_is_kept_and_all_goes_on(monkeypatch, tmp_path):
    from coderank_qdrant.places import kept_file, recall, remember
    monkeypatch.delenv('XDG_CACHE_HOME')
    monkeypatch.chdir(tmp_path)
    for home in '', 'here': # and a user whom the system does not know
        monkeypatch.setenv('HOME', home)
        remember('facts.json', dict(a=1))
        assert recall('facts.json') == {} and not list(tmp_path.iterdir())
    monkeypatch.setenv('HOME', str(tmp_path))
    remember('facts.json', dict(a=1))
    assert recall('facts.json') == dict(a=1) and kept_file('facts.json').is_file()

@pytest.mark.parametrize('number', [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EMFILE])
def test_errors_of_the_disk_are_told_apart_and_name_the_file(number, tmp_path, monkeypatch):
    from coderank_qdrant.command import os_reason
    from coderank_qdrant.places import HOOKS, write_json
    def fails(place, file):
        if place == 'file.write': raise OSError(number, os.strerror(number))
    monkeypatch.setattr('coderank_qdrant.places.HOOKS', [fails])
    assert HOOKS == []
    with pytest.raises(OSError) as error: write_json(tmp_path/'summary.json', {})
    said = os_reason(error.value)
    assert said.startswith(str(tmp_path/'summary.json')) and 'Errno' not in said and os.strerror(number) not in said
