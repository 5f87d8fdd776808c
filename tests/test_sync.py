"One command from a folder to a collection: as new as the folder, quick where nothing changed, and it watches."
import json, os, shutil, signal, subprocess, sys, time
import pytest
import conftest
from coderank_qdrant.search import search
from coderank_qdrant.stores import opened
from coderank_qdrant.sync import sync

@pytest.fixture
def project(tmp_path):
    root = tmp_path/'ledger'
    for i in range(12):
        (root/f'src/part{i % 3}').mkdir(parents=True, exist_ok=True)
        (root/f'src/part{i % 3}/module{i}.py').write_text(f'def entry_{i}(ledger):\n    "Add entry {i} to the ledger."\n    return ledger + [{i}]\n')
    (root/'README.md').write_text('# Ledger\n\nKeeps the balance of accounts.\n')
    return root

def run_cli(*args):
    done = conftest.run_cli(*args, command='coderank_sync', module='sync')
    return done.returncode, done.stdout, done.stderr

def later(root): time.sleep(.1)  # so that what was just written is older than the next call

def sources(location):
    with opened(location) as store: return set(map(str, store.values('source', 100)))

def test_what_changed_and_nothing_else(project, tmp_path):
    first = sync(project, tmp_path/'out')
    assert (first['documents'], first['embedded'], first['written']) == (13, 13, 13)
    later(project)
    sync(project, tmp_path/'out')
    assert sync(project, tmp_path/'out')['changed'] is False
    (project/'src/part0/module0.py').write_text('def refund(account):\n    return account.credit\n')
    (project/'src/part1/module1.py').unlink()
    os.rename(project/'src/part2/module2.py', project/'src/part2/moved.py')
    done = sync(project, tmp_path/'out')
    assert (done['cut'], done['embedded'], done['written'], done['removed']) == (2, 1, 2, 2), done
    assert 'src/part1/module1.py' not in sources(done['location']) and 'src/part2/moved.py' in sources(done['location'])
    assert search('refund of an account', done['location'], 1, device='cpu')[0].metadata['source'] == 'src/part0/module0.py'

def test_a_saved_file_with_its_old_date_and_size_in_a_run_is_seen_later(project, tmp_path, monkeypatch):
    "A file that is saved between being read and the end of the call may look as if it had been read."
    from coderank_qdrant import sync as chapter
    embed, file = chapter.embed_again, project/'README.md'
    def meanwhile(*args):
        file.write_text('# Ledger\n\nKeeps the balance of clients.\n')
        return embed(*args)
    monkeypatch.setattr(chapter, 'embed_again', meanwhile)
    sync(project, tmp_path/'out')
    monkeypatch.undo()
    assert sync(project, tmp_path/'out')['cut'] == 1

@pytest.mark.parametrize('gone', ['index', 'chunks', 'vectors.sqlite'])
def test_what_somebody_removed_is_made_again(project, tmp_path, gone):
    out = tmp_path/'out'
    sync(project, out)
    later(project)
    sync(project, out)
    path = out/gone
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    if gone == 'vectors.sqlite':
        assert sync(project, out)['changed'] is False, 'the collection is whole without it'
        (project/'README.md').write_text('# Ledger\n\nAnother sentence.\n')
    assert sync(project, out)['changed']
    assert len(sources(out/'index')) == 13

def test_inside_of_the_source_nothing_of_ours_is_read(project):
    out = project/'made'
    first = sync(project, out)
    later(project)
    again = sync(project, out)
    assert first['documents'] == 13 and again.get('documents', 13) == 13
    assert sync(project, out)['changed'] is False

def test_the_command(project, tmp_path):
    later(project)
    code, out, err = run_cli(project, tmp_path/'out', '--json', '--devices', 'cpu')
    assert code == 0 and json.loads(out)['documents'] == 13, err
    code, out, err = run_cli(project, tmp_path/'out', '--devices', 'cpu')
    assert (code, out) == (0, '') and 'Nothing has changed' in err, err
    (project/'README.md').write_text('# Ledger\n\nKeeps all accounts.\n')
    code, out, err = run_cli(project, tmp_path/'out', '--devices', 'cpu')
    assert code == 0 and 'is up to date: 13 documents, 1 of them cut again; 13 chunks, 1 texts embedded' in err.splitlines()[-1], err
    assert len(err.splitlines()) == 1, 'what the steps say is in sync.log'
    code, out, err = run_cli(tmp_path/'nowhere', tmp_path/'out')
    assert (code, out) == (2, '') and 'No folder at' in err
    code, out, err = run_cli(project, tmp_path/'out', '--devices', 'cpu', '--header', 'path')
    assert code == 2 and '--recreate' in err, 'another header is another collection'
    code, out, err = run_cli(project, tmp_path/'out', '--devices', 'cpu', '--header', 'path', '--recreate')
    assert code == 0, err

def wait_for(condition, what, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(.1)

@pytest.fixture
def watching(project, tmp_path):
    "A command that watches, with what it has said so far."
    log = tmp_path/'said.txt'
    with log.open('w') as file:
        argv = [sys.executable, '-P', '-c', 'import sys; from coderank_qdrant.sync import coderank_sync; sys.exit(coderank_sync())',
                str(project), str(tmp_path/'out'), '--watch', '--devices', 'cpu']
        process = subprocess.Popen(argv, stderr=file, cwd=tmp_path)
    wait_for(lambda: 'is up to date' in log.read_text(), 'it says that it is done')
    yield process, log
    process.kill()
    process.wait()

def test_watching(project, tmp_path, watching):
    process, log = watching
    (project/'src/late.py').write_text('def reconcile(statement):\n    "Compare a statement with the ledger."\n    return []\n')
    wait_for(lambda: log.read_text().count('is up to date') >= 2, 'the file is indexed')
    assert search('compare a bank statement', tmp_path/'out/index', 1, device='cpu')[0].metadata['source'] == 'src/late.py'
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 143
    assert 'Traceback' not in log.read_text()

def test_a_source_that_vanishes(project, watching):
    process, log = watching
    shutil.rmtree(project)
    assert process.wait(30) == 2
    assert 'is gone. Watching ends.' in log.read_text() and 'Traceback' not in log.read_text()
