"A pretended hub on loopback: model repositories from folders, as the hub's client asks for them, with the faults of real networks."
import hashlib, json, os, socket, threading, time
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

LARGE = 5_000_000  # bytes from which a file is kept as the hub keeps large ones; safetensors files always are

@dataclass(frozen=True)
class File:
    "One file of a repository."
    path:Path
    size:int # Bytes
    git:str # Hash of the file as git names it
    sha256:str # None for a small file

    @property
    def etag(self): return self.sha256 or self.git

def as_file(path):
    data = path.read_bytes()
    large = path.suffix == '.safetensors' or len(data) > LARGE
    return File(path, len(data), hashlib.sha1(b'blob %d\0' % len(data) + data).hexdigest(), hashlib.sha256(data).hexdigest() if large else None)

def number_formats(folder):
    "How many weights are in which format, as the hub counts them from the headers."
    counts = {}
    for path in sorted(Path(folder).glob('*.safetensors')):
        with open(path, 'rb') as f: header = json.loads(f.read(int.from_bytes(f.read(8), 'little')))
        for tensor in (t for name,t in header.items() if name != '__metadata__'):
            count = 1
            for n in tensor['shape']: count *= n
            counts[tensor['dtype']] = counts.get(tensor['dtype'], 0) + count
    return counts

class Repository:
    "A folder as a repository with one commit."
    def __init__(self, hub_id, folder):
        self.hub_id = hub_id
        self.files = {p.relative_to(folder).as_posix(): as_file(p) for p in sorted(Path(folder).rglob('*')) if p.is_file()}
        self.commit = hashlib.sha1(json.dumps([hub_id, {n: f.etag for n,f in self.files.items()}]).encode()).hexdigest()
        self.formats = number_formats(folder)

class PretendHub:
    "A hub that serves these folders until it is closed; every request is written down."
    def __init__(self, folders):
        self.repositories = {hub_id: Repository(hub_id, folder) for hub_id,folder in folders.items()}
        self.requests, self.lock = [], threading.Lock()
        self.cuts, self.statuses, self.sizes, self.rates = {}, [], {}, {}
        handler = type('Handler', (_Handler,), dict(hub=self))
        self.server = ThreadingHTTPServer(('127.0.0.1', 0), handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, kwargs=dict(poll_interval=.05), daemon=True).start()

    def __enter__(self): return self
    def __exit__(self, *_): self.close()
    def close(self):
        self.server.shutdown()
        self.server.server_close()

    @property
    def url(self): return f'http://127.0.0.1:{self.server.server_port}'
    @property
    def far(self): return f'http://localhost:{self.server.server_port}'  # where large files are: another host, as with the hub

    def environment(self, home, **more):
        "For a child process whose hub this is, with its cache in the folder `home`."
        env = {k: v for k,v in os.environ.items() if k not in ('HF_HUB_OFFLINE', 'TRANSFORMERS_OFFLINE', 'HF_HUB_CACHE', 'HF_TOKEN') and not k.lower().endswith('_proxy')}
        return {**env, 'HF_ENDPOINT': self.url, 'HF_HOME': str(home), **more}

    def cut_once(self, file, after):
        "The connection is cut after so many bytes of a file have been sent, once."
        self.cuts[file] = after

    def answer(self, part, status, times=1, code=None):
        "Requests whose path has this part get this status, so many times; `code` is the hub's own word for the error, such as GatedRepo."
        self.statuses.append([part, status, times, code])

    def claim(self, file, size):
        "The hub's lists give a file another size than it has."
        self.sizes[file] = size

    def slow(self, rate, ending=''):
        "Files whose names end so come at so many bytes a second; None is as fast as can be."
        self.rates[ending] = rate

    def sent(self, file):
        "Bytes of a file that were sent, in all requests."
        with self.lock: return sum(r['sent'] for r in self.requests if r['file'] == file)

    def fault(self, path):
        with self.lock:
            for f in self.statuses:
                if f[0] in path and f[2] > 0:
                    f[2] -= 1
                    return f[1], f[3]

def pretend_hub(folders):
    "Start a pretended hub for {hub id: folder}; close it at the end, or use it in a with statement."
    return PretendHub(folders)

class _Handler(BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    def log_message(self, *_): pass
    def do_HEAD(self): self.reply()
    def do_GET(self): self.reply()

    def reply(self):
        path = unquote(urlsplit(self.path).path)
        self.entry = dict(method=self.command, path=path, range=self.headers.get('Range'), status=None, sent=0, file=None)
        with self.hub.lock: self.hub.requests.append(self.entry)
        if fault := self.hub.fault(path): return self.fail(*fault)
        parts = path.strip('/').split('/')
        if parts[:2] == ['api', 'models'] and len(parts) > 3: return self.api('/'.join(parts[2:4]), parts[4:])
        if parts[0] == 'cdn': return self.content('/'.join(parts[1:3]), '/'.join(parts[3:]))
        if len(parts) > 4 and parts[2] == 'resolve': return self.resolve('/'.join(parts[:2]), parts[3], '/'.join(parts[4:]))
        self.fail(404, None)

    def head(self, status, size, **headers):
        self.entry['status'] = status
        self.send_response(status)
        self.send_header('Content-Length', str(size))
        for name,value in headers.items():
            if value is not None: self.send_header(name.replace('_', '-'), str(value))
        self.end_headers()

    def fail(self, status, code):
        self.head(status, 0, X_Error_Code=code, X_Error_Message=code)

    def json(self, value):
        body = json.dumps(value).encode()
        self.head(200, len(body), Content_Type='application/json')
        if self.command == 'GET': self.wfile.write(body)

    def repository(self, hub_id, revision='main'):
        repository = self.hub.repositories.get(hub_id)
        if repository is None: self.fail(404, 'RepoNotFound')
        elif revision not in ('main', repository.commit): self.fail(404, 'RevisionNotFound')
        else: return repository

    def size(self, name, file): return self.hub.sizes.get(name, file.size)

    def api(self, hub_id, rest):
        repository = self.repository(hub_id, rest[1] if len(rest) > 1 else 'main')
        if repository is None: return
        if rest[:1] == ['tree']: return self.json([self.listed(n, f, 'path', 'oid', 'oid') for n,f in repository.files.items()])
        siblings = [self.listed(n, f, 'rfilename', 'blobId', 'sha256') for n,f in repository.files.items()]
        formats = dict(parameters=repository.formats, total=sum(repository.formats.values()))
        self.json(dict(id=hub_id, modelId=hub_id, sha=repository.commit, private=False, tags=[], siblings=siblings, safetensors=formats if repository.formats else None))

    def listed(self, name, file, path, blob, sha):
        size = self.size(name, file)
        lfs = dict(lfs={sha: file.sha256, 'size': size, 'pointerSize': 134}) if file.sha256 else {}
        return {'type': 'file', path: name, 'size': size, blob: file.git, **lfs}

    def resolve(self, hub_id, revision, name):
        repository = self.repository(hub_id, revision)
        if repository is None: return
        if name not in repository.files: return self.fail(404, 'EntryNotFound')
        file = repository.files[name]
        if file.sha256 is None: return self.content(hub_id, name, X_Repo_Commit=repository.commit)
        linked = dict(X_Linked_Size=self.size(name, file), X_Linked_ETag=f'"{file.sha256}"')
        self.head(302, 0, Location=f'{self.hub.far}/cdn/{hub_id}/{name}', X_Repo_Commit=repository.commit, ETag=f'"{file.git}"', **linked)

    def content(self, hub_id, name, **headers):
        repository = self.repository(hub_id)
        if repository is None: return
        file = repository.files[name]
        first, _, last = (self.headers.get('Range') or 'bytes=0-').split('=')[1].partition('-')
        begin, end = int(first), min(int(last or file.size - 1), file.size - 1)
        if begin >= file.size > 0: return self.head(416, 0, Content_Range=f'bytes */{file.size}')
        part = dict(Content_Range=f'bytes {begin}-{end}/{file.size}') if self.headers.get('Range') else {}
        self.head(206 if part else 200, end + 1 - begin, ETag=f'"{file.etag}"', Accept_Ranges='bytes', **part, **headers)
        if self.command == 'GET': self.send(name, file, begin, end + 1)

    def send(self, name, file, begin, last):
        header = last < file.size  # a look at the header of a file is no download of it
        self.entry['file'] = f'{name}, its header' if header else name
        with self.hub.lock: end = begin + self.hub.cuts.pop(name) if name in self.hub.cuts and not header else last
        rate = next((rate for ending,rate in self.hub.rates.items() if rate and name.endswith(ending)), None)
        with open(file.path, 'rb') as f:
            f.seek(begin)
            while (here := f.tell()) < min(end, last):
                block = f.read(min(1 << 18, max(int((rate or 1e9) / 4), 1), end - here))
                try: self.wfile.write(block)
                except OSError: return self.cut()  # the client has gone
                self.entry['sent'] += len(block)
                if rate: time.sleep(len(block) / rate)
        if end < last: self.cut()

    def cut(self):
        self.close_connection = True
        try: self.connection.shutdown(socket.SHUT_RDWR)
        except OSError: pass  # it is closed already
