"Servers that say nothing, too little, too slowly or something else: one line, exit 2, in time."
import socket, threading, time
import pytest
from conftest import write_file
from coderank_qdrant import hub
from coderank_qdrant.command import InputError, run_command
from coderank_qdrant.index import coderank_index
from coderank_qdrant.mcp_server import coderank_mcp
from coderank_qdrant.pipeline import embed_corpus
from coderank_qdrant.search import coderank_search
from coderank_qdrant.server import ServerStore

def whole(body, kind=b'application/json'): return b'HTTP/1.1 200 OK\r\nContent-Type: ' + kind + b'\r\nContent-Length: %d\r\n\r\n' % len(body) + body

ANSWERS = dict(silent=b'', leaves=None, half=whole(b'{"result": {"collections": [] }}')[:-9], half_head=b'HTTP/1.1 200', drip=whole(b' ' * 1000), drip_head=b'HTTP/1.1 200 OK\r\nX: ' + b'x' * 1000,
               null=whole(b'null'), object=whole(b'{}'), html=whole(b'<html>Welcome</html>', b'text/html'), words=b'220 mail.example ESMTP\r\n')
SLOW = 'silent', 'drip', 'drip_head'

class Odd:
    "A server that answers everybody in the same way."
    def __init__(self):
        self.kind, self.over, self.socket = 'null', threading.Event(), socket.create_server(('127.0.0.1', 0))
        self.url = f'http://127.0.0.1:{self.socket.getsockname()[1]}'
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try: client, _ = self.socket.accept()
            except OSError: return
            threading.Thread(target=self.answer, args=(client, self.kind), daemon=True).start()

    def answer(self, client, kind):
        with client:
            try:
                client.recv(65536)
                if kind in ('drip', 'drip_head'): return self.drip(client, ANSWERS[kind])
                if ANSWERS[kind]: client.sendall(ANSWERS[kind])
                if kind == 'silent': self.over.wait(60)
            except OSError: pass

    def drip(self, client, data):
        at = len(data) - 1000
        client.sendall(data[:at])
        while at < len(data) and not self.over.wait(.3):
            client.sendall(data[at:at+1])
            at += 1

@pytest.fixture(scope='module')
def odd():
    server = Odd()
    yield server
    server.over.set()
    server.socket.close()

@pytest.fixture(scope='module')
def run(tiny, tmp_path_factory):
    root = tmp_path_factory.mktemp('run')
    write_file(root/'in', 'docs/a_chunks.json', ['a text'])
    return embed_corpus(root/'in', root/'out', profile=str(tiny), devices='cpu')

def calls(run, url):
    "The commands that open a server's collection, one that names it and two that do not."
    yield coderank_search, ['text', '--location', f'{url}/collections/mine', '--mode', 'sparse', '--device', 'cpu']
    yield coderank_index, [str(run.out), '--location', url]
    yield coderank_mcp, ['--location', url]

@pytest.mark.parametrize('kind', ANSWERS)
def test_a_qdrant_server(kind, odd, run, monkeypatch, capsys):
    "The setting is a second, and a server has three times that to be opened."
    monkeypatch.setenv('QDRANT_TIMEOUT', '1')
    monkeypatch.setattr(ServerStore, 'tries', 2)
    odd.kind = kind
    for command, args in list(calls(run, odd.url))[:1 if kind in SLOW else 3]:
        start = time.monotonic()
        assert run_command(command.__wrapped__, args) == 2
        took, (out, err) = time.monotonic() - start, capsys.readouterr()
        line, = [line for line in err.splitlines() if line != 'Indexing ...']
        assert took < 15 and odd.url in line and 'fault of this program' not in line and not out
        assert ('did not answer in time' in line and 'QDRANT_TIMEOUT' in line) == (kind in SLOW), line

def test_a_time_that_is_none(odd, monkeypatch):
    for told in 'soon', '0', '-1', '1e3':
        monkeypatch.setenv('QDRANT_TIMEOUT', told)
        with pytest.raises(InputError, match='is no whole number of seconds'): ServerStore(odd.url)

@pytest.mark.parametrize('kind', ANSWERS)
def test_a_hub(kind, odd, monkeypatch):
    from huggingface_hub import constants
    for name,value in dict(ENDPOINT=odd.url, HF_HUB_OFFLINE=False).items(): monkeypatch.setattr(constants, name, value)
    monkeypatch.setattr(hub, 'ANSWER', 1)
    odd.kind, start = kind, time.monotonic()
    with pytest.raises(InputError, match='^someone/model cannot be fetched ') as error: hub.hub_facts('someone/model')
    assert time.monotonic() - start < 15 and '\n' not in str(error.value)
    if kind in ('null', 'object', 'html'): assert 'what answers is no hub' in str(error.value)
    if kind.startswith('drip'): assert 'no whole answer within 3 seconds' in str(error.value)
