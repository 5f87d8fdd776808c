"Only our own code runs, whatever lies in the folders of a run."
import subprocess, sys
from pathlib import Path
import pytest
from conftest import summary_of, write_file
from coderank_qdrant.command import InputError

PLANTED = 'torch', 'queue', 'transformers', 'numpy', 'coderank_qdrant', 'sitecustomize', 'accelerate'

def plant(folder):
    "Modules under names that a worker imports; each leaves a mark when it runs."
    folder.mkdir(parents=True, exist_ok=True)
    for name in PLANTED: (folder/f'{name}.py').write_text(f"open({str(folder/'RAN')!r}, 'a').write('{name} ')\nraise SystemExit(9)\n")

@pytest.fixture
def traps(tiny, tmp_path):
    "INPUT and OUT of a run, with planted modules."
    write_file(tmp_path/'in', 'docs/a_chunks.json', [f'text number {i}' for i in range(40)], 'a.md')
    for folder in tmp_path/'in', tmp_path/'in/docs', tmp_path/'out': plant(folder)
    return tmp_path

@pytest.mark.parametrize('where', ['in', 'out'])
def test_workers_import_nothing_from_the_current_folder(where, traps, tiny):
    command = Path(sys.executable).with_name('coderank_embed')
    args = [command, traps/'in', '--out', traps/'out', '--profile', tiny, '--devices', 'cpu,cpu']
    p = subprocess.run(list(map(str, args)), cwd=traps/where, capture_output=True, text=True, timeout=300)
    assert p.returncode == 0, p.stderr
    assert summary_of(traps/'out', 'in')['total_embeddings'] == 40
    assert not list(traps.rglob('RAN'))

def test_a_jsonl_that_was_changed_is_not_indexed(tiny, tmp_path):
    "A damage that leaves every line readable, and the length of the file as it was."
    from coderank_qdrant.index import index_run
    from coderank_qdrant.pipeline import embed_corpus
    write_file(tmp_path/'in', 'docs/a_chunks.json', ['a text', 'another text'])
    run = embed_corpus(tmp_path/'in', tmp_path/'out', profile=str(tiny), devices='cpu')
    whole = run.jsonl.read_bytes()
    assert run.summary['outputs'][run.jsonl.name]['bytes'] == len(whole)
    run.jsonl.write_bytes(whole.replace(b'another', b'amother'))
    with pytest.raises(InputError, match='not as the run wrote it'): index_run(tmp_path/'out', tmp_path/'index')
    embed_corpus(tmp_path/'in', tmp_path/'out', profile=str(tiny), devices='cpu')
    assert run.jsonl.read_bytes() == whole and index_run(tmp_path/'out', tmp_path/'index')['points'] == 2

def test_a_key_is_not_sent_where_others_can_read_it(tmp_path, monkeypatch):
    from coderank_qdrant.server import ServerStore, find_key
    def address_asked(location, **kw):
        asked = []
        monkeypatch.setattr(ServerStore, '_connect', lambda self, key, _timeout: asked.append(key) or 1 / 0)
        with pytest.raises((InputError, ZeroDivisionError)) as error: ServerStore(location, **kw)
        return asked, str(error.value)
    for key in dict(api_key='sesame'), dict(monkeypatch.setenv('QDRANT_API_KEY', 'sesame') or {}):
        asked, said = address_asked('http://192.0.2.7:6333', **key)
        assert asked == [] and 'unencrypted' in said and 'sesame' not in said
        assert address_asked('https://192.0.2.7:6333', **key)[0] == ['sesame'] == address_asked('http://127.0.0.1:6333', **key)[0]
    monkeypatch.setenv('QDRANT_INSECURE', '1')
    assert address_asked('http://192.0.2.7:6333')[0] == ['sesame']
    monkeypatch.delenv('QDRANT_API_KEY')
    (tmp_path/'key').write_text('from a file\n')
    monkeypatch.setenv('QDRANT_API_KEY_FILE', str(tmp_path/'key'))
    assert find_key() == 'from a file' and find_key('typed') == 'typed'
    monkeypatch.setenv('QDRANT_API_KEY_FILE', str(tmp_path/'nowhere'))
    with pytest.raises(InputError, match='cannot be read'): find_key()
