"A collection that follows a folder while it is asked: answers are of the state before or after, and every fault is said."
import asyncio, os, re, shutil, sys, threading, time
import pytest
from coderank_qdrant import following, sync as chapter
from coderank_qdrant.following import Follower
from coderank_qdrant.reader import Reader
from coderank_qdrant.stores import opened
from coderank_qdrant.sync import sync

MCP = 'import sys; from coderank_qdrant.mcp_server import coderank_mcp as c; sys.exit(c())'
OLD = 'def refund(account):\n    "Give the money back to a customer."\n    return account.credit\n'
NEW = 'def reimburse(customer):\n    "Pay a customer what was paid too much."\n    return customer.wallet\n'

def make_project(root):
    (root/'src').mkdir(parents=True)
    (root/'src/pay.py').write_text(OLD)
    (root/'README.md').write_text('# Ledger\n\nKeeps the balance of accounts.\n')
    return root

@pytest.fixture
def project(tmp_path): return make_project(tmp_path/'ledger')

@pytest.fixture
def follower(project, tmp_path):
    "A follower that was up to date once, its reader, and what was said."
    said: list = []
    follower = Follower(project, tmp_path/'out', say=said.append, devices='cpu')
    follower.pause = follower.again = .2
    follower.round()
    assert not follower.fault and len(said) == 1, said
    follower.reader = Reader(follower.places.location, device='cpu')
    follower.reader.follower, follower.said = follower, said
    yield follower
    follower.close()

def wait_for(condition, what, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(.05)

def texts(reader): return reader.search('pay money to a customer', mode='dense', limit=3)

def test_a_question_while_points_are_written(project, follower, monkeypatch):
    "The writer holds the folder for as long as it likes; whoever asks has the state before, at once."
    here, go_on = threading.Event(), threading.Event()
    from coderank_qdrant import index
    finish = index.settle_store
    def slowly(*args):
        here.set()
        assert go_on.wait(60)
        return finish(*args)
    monkeypatch.setattr(index, 'settle_store', slowly)
    (project/'src/pay.py').write_text(NEW)
    thread = threading.Thread(target=follower.round)
    thread.start()
    assert here.wait(60)
    start = time.monotonic()
    during, about = texts(follower.reader), follower.reader.about()
    assert 'def refund' in during and 'reimburse' not in during
    assert 'is being read. Answers are of 20' in about and time.monotonic() - start < 4, 'nobody waited for the writer'
    go_on.set()
    thread.join()
    after = texts(follower.reader)
    assert 'def reimburse' in after and 'refund' not in after and not follower.before.exists()
    assert 'Up to date with' in follower.reader.about()

@pytest.mark.parametrize('step', ['cut_again', 'embed_again', 'written'])
def test_a_failing_sync_is_said_and_answers_are_of_the_state_before(project, follower, monkeypatch, step):
    index = chapter.index_again
    def half(places, *args, **kw):
        index(places, *args, **kw)
        with opened(places.location) as store: store.delete(list(store.ids())[:1])
        raise OSError(28, 'No space left on device')
    def fail(*args, **kw): raise OSError(28, 'No space left on device')
    monkeypatch.setattr(chapter, 'index_again' if step == 'written' else step, half if step == 'written' else fail)
    (project/'src/pay.py').write_text(NEW)
    follower.round()
    follower.round()
    found = texts(follower.reader)
    assert 'could not be brought up to date' in found and 'No space left on device' in found and 'def refund' in found and 'reimburse' not in found
    assert 'README.md' in found and 'No space left on device' in follower.reader.about()
    assert [('No space left' in line) for line in follower.said] == [False, True], 'said once'
    monkeypatch.undo()
    follower.round()
    found = texts(follower.reader)
    assert 'def reimburse' in found and 'could not' not in found and not follower.before.exists()

def test_a_process_that_ended_over_a_change(project, follower, tmp_path):
    "What a killed follower leaves is answered from its copy, and mended by the next one."
    following.keep_before(follower.places)
    with opened(follower.places.location) as store: store.delete(list(store.ids()))
    assert 'def refund' in texts(follower.reader)
    (project/'src/pay.py').write_text(NEW)
    follower.round()
    assert 'def reimburse' in texts(follower.reader) and 'README.md' in texts(follower.reader)

def test_questions_share_the_model_of_a_run(tmp_path):
    "A hundred questions while a run computes, with one copy of the model: every vector is that of its own text."
    import numpy as np
    from conftest import read_jsonl, write_file
    from coderank_qdrant.index import index_run
    from coderank_qdrant.pipeline import embed_corpus
    from coderank_qdrant.questions import query_model, query_vector
    from coderank_qdrant.teams import KEPT, TeamEncoder, release_models
    write_file(tmp_path/'corpus', 'a/first_chunks.json', ['one text'], 'a/first.md')
    first = embed_corpus(tmp_path/'corpus', tmp_path/'first', profile='offline', devices='cpu', keep=True)
    index_run(first, tmp_path/'index')
    with opened(tmp_path/'index') as store: about = store.about['models']['all-MiniLM-L6-v2']
    write_file(tmp_path/'corpus', 'a/many_chunks.json', [f'Text {i} is about {"points and payloads " * (i % 20 + 1)}' for i in range(120)], 'a/many.md')
    quiet = embed_corpus(tmp_path/'corpus', tmp_path/'quiet', profile='offline', devices='cpu', keep=True)
    assert about['fingerprint'] in KEPT.loaded
    answers: list = []
    done = threading.Event()
    def ask():
        while not done.is_set():
            encoder, tokenizer = query_model('all-MiniLM-L6-v2', about, device='cpu')
            answers.append((isinstance(encoder, TeamEncoder), query_vector(encoder, tokenizer, 'where is the money')[0]))
    thread = threading.Thread(target=ask)
    thread.start()
    try: loud = embed_corpus(tmp_path/'corpus', tmp_path/'loud', profile='offline', devices='cpu', keep=True)
    finally:
        done.set()
        thread.join()
        release_models()
    assert len(answers) > 3 and all(shared for shared,_ in answers)
    assert all(np.allclose(vector, answers[0][1], atol=1e-5) for _,vector in answers)
    one, two = (np.array([line['embedding'] for line in read_jsonl(run.jsonl)]) for run in (quiet, loud))
    assert one.shape == (121, 384) and np.allclose(one, two, atol=1e-5)

def test_a_source_that_vanishes_and_comes_back(project, follower, tmp_path):
    follower.start()
    os.rename(project, tmp_path/'away')
    wait_for(lambda: follower.state == 'gone', 'it is noticed')
    found = texts(follower.reader)
    assert 'is gone; it is waited for. Answers are of 20' in found and 'def refund' in found
    assert sum('is gone' in line for line in follower.said) == 1
    (tmp_path/'away/src/pay.py').write_text(NEW)
    os.rename(tmp_path/'away', project)
    wait_for(lambda: 'def reimburse' in texts(follower.reader), 'it is followed again')
    assert 'gone' not in follower.reader.about()

def test_another_folder_in_its_place(project, follower, tmp_path):
    "As a checkout that is cloned again: the system watches the old one, which is another folder now."
    follower.start()
    time.sleep(.5)
    make_project(tmp_path/'other')
    os.rename(project, tmp_path/'old')
    os.rename(tmp_path/'other', project)
    time.sleep(1)
    (project/'src/pay.py').write_text(NEW)
    wait_for(lambda: 'def reimburse' in texts(follower.reader), 'the new folder is followed')

def test_a_watch_that_the_system_refuses(follower, monkeypatch):
    import watchfiles
    def refuse(*args, **kw): raise OSError(28, 'OS file watch limit reached')
    monkeypatch.setattr(watchfiles, 'watch', refuse)
    follower.start()
    wait_for(lambda: follower.faults(), 'it is said')
    assert 'watch limit reached' in follower.faults()[0] and 'def refund' in texts(follower.reader)

def test_settings_of_the_last_sync_go_on(project, tmp_path):
    sync(project, tmp_path/'out', header='path', devices='cpu')
    follower = Follower(project, tmp_path/'out', say=print)
    follower.round()
    assert not follower.fault and follower.asked['header'] == 'path'

# over the protocol

def test_two_servers_follow_one_folder(project, tmp_path):
    "From nothing; the second says that the first one follows, answers as well, and takes over when the first one ends."
    pytest.importorskip('mcp')
    from mcp import Client, StdioServerParameters, stdio_client
    parameters = StdioServerParameters(command=sys.executable, args=['-c', MCP, '--watch', str(project), '--out', str(tmp_path/'out'), '--device', 'cpu'], env=dict(os.environ))
    async def tell(client, name, **arguments):
        answer = await client.call_tool(name, arguments)
        return answer.content[0].text
    async def until(client, words, name='search', **arguments):
        end = time.monotonic() + 300
        while time.monotonic() < end:
            text = await tell(client, name, **(arguments or dict(query='pay money to a customer') if name == 'search' else {}))
            if words in text: return text
            await asyncio.sleep(.2)
        raise AssertionError(f'{words} is not in {text}')
    async def session(one_err, two_err):
        async with Client(stdio_client(parameters, two_err)) as two:
            async with Client(stdio_client(parameters, one_err)) as one:
                await until(one, 'def refund')
                await until(two, 'def refund')
                states = [await tell(client, 'about') for client in (one, two)]
                (project/'src/pay.py').write_text(NEW)
                await until(one, 'def reimburse')
                await until(two, 'def reimburse')
            first = 'one' if 'Another process' in states[1] else 'two'
            (project/'src/late.py').write_text('def audit(books):\n    "Look for entries without a receipt."\n')
            await until(two, 'def audit', query='entries without a receipt')
            about = await until(two, 'Up to date with', 'about')
            shutil.rmtree(project)
            gone = await until(two, 'is gone', 'about')
            still = await tell(two, 'search', query='entries without a receipt')
        return first, states, about, gone, still
    with open(tmp_path/'one', 'w') as one, open(tmp_path/'two', 'w') as two: first, states, about, gone, still = asyncio.run(session(one, two))
    assert sum('Another process keeps this collection up to date with' in state for state in states) == 1
    assert 'Another process' not in about and 'is gone; it is waited for' in gone and 'def audit' in still
    said = (tmp_path/first).read_text() + (tmp_path/('one' if first == 'two' else 'two')).read_text()
    assert 'is up to date' in said and 'Another process' in said and 'Traceback' not in said, said
    assert all(re.match('coderank_mcp: ', line) for line in said.splitlines()), said

@pytest.mark.parametrize('args,says', [(['--watch', 'SRC'], 'belong together'), (['--out', 'OUT'], 'belong together'), (['--watch', 'NONE', '--out', 'OUT'], 'No folder at'),
    (['--watch', 'SRC', '--out', 'OUT', '--location', 'FILE'], 'is no collection')], ids=lambda a: ' '.join(a) if isinstance(a, list) else '')
def test_bad_commands(project, tmp_path, capsys, args, says):
    from coderank_qdrant.command import run_command
    from coderank_qdrant.mcp_server import coderank_mcp
    (tmp_path/'FILE').write_text('x')
    args = [str(project) if a == 'SRC' else str(tmp_path/a) if a.isupper() else a for a in args]
    assert run_command(coderank_mcp.__wrapped__, args) == 2
    said = capsys.readouterr()
    assert says in said.err and said.err.count('\n') == 1 and not said.out

def test_a_second_command_that_watches(project, tmp_path):
    import conftest
    with chapter.only_one(tmp_path/'out/watch.sqlite') as mine:
        done = conftest.run_cli(project, tmp_path/'out', '--watch', command='coderank_sync', module='sync')
    assert mine and done.returncode == 2 and 'is kept up to date by another process' in done.stderr and done.stderr.count('\n') == 1
