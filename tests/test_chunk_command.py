"The chunk command: nothing stops it, nothing disappears, no half tree, nothing cut twice."
import errno, json, os, random, signal, subprocess, sys
from collections import Counter
from pathlib import Path
import pytest
from coderank_qdrant import chunking, tree
from coderank_qdrant.chunking import coderank_chunk
from coderank_qdrant.command import run_command
from coderank_qdrant.corpus import read_corpus
from coderank_qdrant.documents import Wanted, decode, folder_documents, run_git
from coderank_qdrant.places import sole_use

def put(file, data='x = 1\n'):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data if isinstance(data, bytes) else data.encode())
    return file

def chunk(src, out, *options): return run_command(coderank_chunk, [str(src), str(out), *options])
def told(out): return json.loads(out.with_name(f'{out.name}.summary.json').read_bytes())

def chunked(src, out, *options):
    "The summary and the texts of a tree, after the promises that hold for every tree."
    assert chunk(src, out, *options) == 0
    about, corpus = told(out), read_corpus(out)
    assert about['found'] == about['cut'] + sum(about['left_out'].values()) + len(about['problems'])
    assert corpus.problems == [] and corpus.files == about['cut'] and len(corpus.chunks) == about['chunks']
    assert not out.with_name(f'{out.name}.part').exists()
    return about, {item.metadata['source']: item.text for item in corpus.chunks}

def files_of(folder): return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob('*')) if file.is_file()}

def test_names_that_are_not_utf8(tmp_path):
    src = os.fsencode(put(tmp_path/'src/a.md').parent)
    for name in b'r\xe9sum\xe9.md', b'r\xe8sum\xe8.md', b'two\nlines.md', b'back\\slash.md', b' a.md':
        with open(src + b'/' + name, 'wb') as file: file.write(name.decode('latin-1').encode())
    about, texts = chunked(tmp_path/'src', tmp_path/'tree')
    assert (about['cut'], len(texts), len(about['renamed'])) == (6, 6, 5) and texts['a.md'] == 'x = 1'
    assert all(path.endswith('.md') for path in texts) and {'two_lines.md', 'back_slash.md'} <= texts.keys()

def test_what_cannot_be_read_is_a_problem(tmp_path, capsys):
    src = put(tmp_path/'src/a.md').parent
    os.symlink('/proc/self/mem', src/'m.txt')
    os.symlink('nowhere', src/'broken.md')
    os.symlink('circle.md', src/'circle.md')
    os.mkfifo(src/'pipe.md')
    os.mkfifo(src/'pipe.summary.json')
    os.symlink('pipe.md', src/'to_pipe.md')
    put(src/'picture.md', b'\x89PNG\r\n\x1a\n\0\0')
    put(src/'data.json', b'{"a": "\0\1\2"}')
    put(src/f'{"long" * 62}.md')
    about, texts = chunked(src, tmp_path/'tree')
    kinds = {problem['path'][:9]: problem['kind'] for problem in about['problems']}
    assert kinds == {'m.txt': 'unreadable', 'broken.md': 'unreadable', 'circle.md': 'unreadable', 'picture.m': 'binary', 'data.json': 'binary', 'longlongl': 'name'}
    said = capsys.readouterr().err
    assert '6 documents could not be cut' in said and 'and 1 more' in said and list(texts) == ['a.md']
    assert about['left_out'] == dict(special=3)
    assert chunk(src, tmp_path/'tree', '--strict') == 3

def test_a_grammar_that_cannot_load_costs_its_documents_only(tmp_path, monkeypatch):
    def broken(text, path, **_):
        if path.endswith('.rs'): raise OSError('undefined symbol: tree_sitter_rust')
        return [dict(content=text, index=0, metadata={})]
    monkeypatch.setattr(chunking, 'cut_document', broken)
    src = put(put(tmp_path/'src/a.rs').with_name('b.py')).parent
    about, texts = chunked(src, tmp_path/'tree')
    assert list(texts) == ['b.py'] and 'tree_sitter_rust' in about['problems'][0]['detail']

SAMPLES = {'utf-16': '# Gr\xfc\xdfe\n\nqdrant snapshot recovery', 'utf-16-be': '# Anleitung\n\nqdrant snapshot', 'utf-32': '# Anleitung\n\nsnapshot',
           'utf-32-le': '# Plain words\n\nsnapshot', 'utf-8-sig': '# BOM\n\nsnapshot', 'cp1252': '# Caf\xe9\n\nna\xefve snapshot',
           'cp1251': '# Заметки\n\nПоиск по векторам и снимок базы snapshot', 'koi8_r': 'Это простой текст о поиске документов и векторах.',
           'cp1250': 'Zażółć gęślą jaźń. Proszę państwa, dzień dobry, wszystko już było wczoraj świetnie.',
           'gb18030': '这是一个关于搜索引擎的简单文本。', 'euc_jp': 'これは日本語のテキストです。検索エンジンについて説明します。', 'cp949': '이것은 검색 엔진에 대한 간단한 텍스트입니다.'}

@pytest.mark.parametrize('encoding', SAMPLES)
def test_other_encodings_are_decoded_and_said(tmp_path, encoding):
    put(tmp_path/'src/a.md', SAMPLES[encoding].encode(encoding))
    about, texts = chunked(tmp_path/'src', tmp_path/'tree')
    text = ''.join(item.text for item in read_corpus(tmp_path/'tree').chunks)
    assert text.split() == SAMPLES[encoding].split() and [one['path'] for one in about['reencoded']] == ['a.md']

@pytest.mark.parametrize('seed', range(50))
def test_bytes_are_text_or_refused(seed):
    data = random.Random(seed).randbytes(random.Random(seed).choice([3, 8, 100, 5000]))
    try: text, encoding = decode(data)
    except ValueError: return
    assert '\0' not in text and '\ufffd' not in text and text.encode(encoding or 'utf-8')

def ignored_source(src):
    put(src/'.gitignore', 'secret.yaml\nbuild/\n')
    for path in ('keep.py', 'secret.yaml', 'build/x.js', 'node_modules/a/i.js', '.venv/lib/x.py', 'venv/pyvenv.cfg', 'venv/lib/y.py', 'package-lock.json', 'Cargo.lock', 'go.sum',
                 '__pycache__/a.py', '.env', 'id_rsa', 'server.pem', '.github/ci.yml', 'LICENSE', 'run/x_embeddings.jsonl', 'old/a.md_chunks.json'):
        put(src/path)
    put(src/'app.min.js', 'function a(){return 1};' * 3000)
    put(src/'wide.js', 'function a(){return 1};' * 3000)
    put(src/'wide.css', 'a{b:c}' * 3000)
    put(src/'pb.go', '// Code generated by protoc-gen-go. DO NOT EDIT.\npackage a\n')
    put(src/'logo.png', b'\x89PNG\r\n\x1a\n')
    put(src/'empty.py', '\n')
    put(src/'own.py', f'__all__ = {list(range(900))}\n\n# AUTOGENERATED! DO NOT EDIT! File to edit: ../nbs/00_own.ipynb.\nx = 1\n')
    return src

def test_what_does_not_belong_is_left_out_and_counted(tmp_path, capsys):
    src = ignored_source(tmp_path/'src')
    about, texts = chunked(src, tmp_path/'tree')
    assert set(texts) == {'keep.py', 'own.py'} and about['nbdev_modules'] == 1
    assert about['left_out'] == dict(environment=3, packages=1, build=1, cache=1, ignored=1, hidden=2, output=2, secret=3, lock=3, minified=3, generated=1, binary=1, unknown=1, empty=1)
    assert about['found'] == len([file for file in src.rglob('*') if file.is_file()])
    said = capsys.readouterr().err
    assert 'packages of others: 1 (node_modules/)' in said and '--all' in said and 'nbdev' in said

def test_all_takes_what_was_guessed_and_keys_only_when_asked(tmp_path):
    src = ignored_source(tmp_path/'src')
    about, texts = chunked(src, tmp_path/'tree', '--all')
    assert about['left_out'] == dict(secret=3, binary=1, empty=1)
    assert {'node_modules/a/i.js', '_github/ci.yml', 'build/x.js', 'go.sum', 'LICENSE', 'pb.go'} <= texts.keys()
    about, texts = chunked(src, tmp_path/'tree', '--all', '--secrets')
    assert about['left_out'] == dict(binary=1, empty=1) and {'_env', 'id_rsa', 'server.pem'} <= texts.keys()

RULES = ('*.log', '/top.md', 'docs/', 'docs/*', '!docs/keep.md', 'a/**/b.md', '**/deep', 'x/**', '!x/keep.md', '*', '!*/', '!*.py', 'b?.md', '[ab].md', '\\#odd.md', '/a/b', '# comment', 'keep.md ', '**/docs/a.md')
PATHS = [f'{folder}{name}' for folder in ('', 'docs/', 'a/', 'a/b/', 'a/c/b/', 'x/', 'x/y/', 'z/deep/') for name in ('top.md', 'keep.md', 'a.md', 'b.md', 'b1.md', 'e.py', 'f.log', '#odd.md')]

@pytest.mark.skipif(run_git(Path.cwd(), '--version') is None, reason='git is not there')
def test_git_and_pathspec_agree(tmp_path):
    src = tmp_path/'src'
    for path in PATHS: put(src/path)
    assert run_git(src, 'init', '-q') is not None
    rng, taken = random.Random(0), Counter()
    for _ in range(25):
        put(src/'.gitignore', '\n'.join(rng.sample(RULES, rng.randint(1, 5))))
        put(src/'a/.gitignore', '\n'.join(rng.sample(RULES, rng.randint(0, 2))))
        for source in src, src/'docs':
            by_git, by_rules = (folder_documents(source, Wanted(use_git=use_git)) for use_git in (True, False))
            if source != src and run_git(source, 'check-ignore', '-q', '.') is not None: continue  # next test
            assert by_git.documents == by_rules.documents, (src/'.gitignore').read_text() + '\n--\n' + (src/'a/.gitignore').read_text()
            assert by_git.found == by_rules.found
            taken[len(by_git.documents)] += 1
    assert len(taken) > 5, 'the rules make a difference'

@pytest.mark.skipif(run_git(Path.cwd(), '--version') is None, reason='git is not there')
def test_an_ignored_folder_that_is_named_as_the_source_is_read(tmp_path):
    put(tmp_path/'.gitignore', 'scratch/\n*.log\n')
    put(tmp_path/'scratch/a.md')
    put(tmp_path/'scratch/.gitignore', 'b.md')
    put(tmp_path/'scratch/b.md')
    assert run_git(tmp_path, 'init', '-q') is not None
    for use_git in True, False: assert [str(path) for path,_ in folder_documents(tmp_path/'scratch', Wanted(use_git=use_git)).documents] == ['a.md']

@pytest.mark.skipif(run_git(Path.cwd(), '--version') is None, reason='git is not there')
def test_repositories_in_a_source_have_their_own_rules(tmp_path):
    src = tmp_path/'src'
    put(src/'.gitignore', 'a.md\n')
    for path in 'a.md', 'b.md', 'inner/a.md', 'inner/b.md', 'dist/kept.js', 'dist/made.js': put(src/path)
    put(src/'inner/.gitignore', 'b.md\n')
    for folder in src, src/'inner': assert run_git(folder, 'init', '-q') is not None
    assert run_git(src, 'add', 'dist') is not None
    for use_git,expected in (True, ['b.md', 'dist/kept.js', 'dist/made.js', 'inner/a.md']), (False, ['b.md', 'inner/a.md']):
        assert [str(path) for path,_ in folder_documents(src, Wanted(use_git=use_git)).documents] == expected

def many(src, count=30):
    for i in range(count): put(src/f'part{i % 3}/doc{i:02}.md', f'# Document {i}\n\n' + 'Some words about it. ' * 40)
    return src

KILLED = '''
import os, signal, sys
from coderank_qdrant import chunking
real, done = chunking.cut_document, []
def cut(text, path, **options):
    if len(done) == 12: os.kill(os.getpid(), signal.{0})
    done.append(path)
    return real(text, path, **options)
chunking.cut_document = cut
sys.exit(chunking.coderank_chunk())
'''

def killed(src, out, how):
    return subprocess.run([sys.executable, '-c', KILLED.format(how), str(src), str(out)], capture_output=True, text=True, timeout=100,
                          preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))  # it is ignored in what a shell runs in the background

@pytest.mark.parametrize('how', ['SIGKILL', 'SIGINT'])
def test_an_interrupted_run_goes_on_to_the_same_bytes(tmp_path, how):
    src, out = many(tmp_path/'src'), tmp_path/'new/parents/tree'
    ended = killed(src, out, how)
    assert ended.returncode == (130 if how == 'SIGINT' else -signal.SIGKILL) and not out.exists()
    assert 'Traceback' not in ended.stderr and ('goes on from there' in ended.stderr) == (how == 'SIGINT')
    (src/'part0/doc00.md').unlink()
    about, _ = chunked(src, out)
    assert about['kept'] == 11 and about['cut'] == 29
    chunked(src, tmp_path/'fresh/tree')
    assert files_of(out) == files_of(tmp_path/'fresh/tree')

def test_a_second_run_cuts_what_changed_only(tmp_path, monkeypatch):
    src, out = many(tmp_path/'src', 6), tmp_path/'tree'
    chunked(src, out)
    before, cut, real = files_of(out), [], chunking.cut_document
    def counted(text, path, **options):
        cut.append(path)
        return real(text, path, **options)
    monkeypatch.setattr(chunking, 'cut_document', counted)
    assert chunked(src, out)[0]['kept'] == 6 and files_of(out) == before and not cut
    put(src/'part0/doc00.md', 'Changed.')
    put(src/'part3/new.md', 'New.')
    (src/'part1/doc01.md').unlink()
    about, texts = chunked(src, out)
    assert cut == ['part0/doc00.md', 'part3/new.md'] and (about['kept'], about['cut']) == (4, 6) and 'part1/doc01.md' not in texts
    next(out.rglob('doc02.md_chunks.json')).write_text('{"chunks": []}')
    cut.clear()
    chunked(src, out)
    assert cut == ['part2/doc02.md']
    chunked(src, out, '--size', '64')
    assert len(cut) == 7

@pytest.mark.parametrize('fails_at', [1, 2, 3])
def test_a_run_that_dies_while_moving_its_tree_is_ended_by_the_next(tmp_path, monkeypatch, fails_at):
    src, out = many(tmp_path/'src', 3), tmp_path/'tree'
    chunked(src, out)
    put(src/'part9/new.md', 'New.')
    calls = []
    def dying(move):
        def moved(*paths):
            calls.append(paths)
            if len(calls) == fails_at: raise KeyboardInterrupt
            return move(*paths)
        return moved
    with monkeypatch.context() as patched:
        for name in 'rename', 'replace': patched.setattr(tree.os, name, dying(getattr(os, name)))
        assert chunk(src, out) == 130
    assert not out.exists() or read_corpus(out).problems == []
    assert len(chunked(src, out)[1]) == 4

def test_a_full_disk_stops_and_what_is_done_is_kept(tmp_path, monkeypatch, capsys):
    src, out, real = many(tmp_path/'src', 6), tmp_path/'tree', tree.write_chunks
    def full(folder, rel, *rest):
        if rel.name == 'doc04.md': raise OSError(errno.ENOSPC, 'No space left on device')
        return real(folder, rel, *rest)
    with monkeypatch.context() as patched:
        patched.setattr(tree, 'write_chunks', full)
        assert chunk(src, out) == 2 and not out.exists()
    assert 'its disk is full' in capsys.readouterr().err
    assert chunked(src, out)[0]['kept'] > 0

def test_a_tree_inside_of_its_source(tmp_path):
    src = many(tmp_path/'src', 3)
    first, _ = chunked(src, src/'made/tree')
    second, texts = chunked(src, src/'made/tree')
    assert first['found'] == second['found'] == 3 == second['kept'] and len(texts) == 3

def test_places_that_are_refused(tmp_path, monkeypatch, capsys):
    src = many(tmp_path/'src', 3)
    mine = put(tmp_path/'mine/notes.md').parent
    chunked(src, tmp_path/'tree')
    put(tmp_path/'tree/notes.md')
    for out,why in (mine, 'not empty'), (tmp_path/'tree', 'not made by this command'), (src/'part0/doc00.md', 'is a file'), (tmp_path, 'is to be read'):
        before = files_of(tmp_path)
        assert chunk(src, out) == 2 and why in capsys.readouterr().err and files_of(tmp_path) == before
    (tmp_path/'empty').mkdir()
    with monkeypatch.context() as patched:
        patched.setattr(Path, 'is_mount', lambda _: True)
        assert chunk(src, tmp_path/'empty') == 2 and 'Name a folder in it' in capsys.readouterr().err
    chunked(src, tmp_path/'empty')

def test_a_source_without_documents(tmp_path, capsys):
    put(tmp_path/'src/LICENSE')
    assert chunk(tmp_path/'src', tmp_path/'tree') == 2 and '1 unknown' in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ['src']

NAMES = ('a.py', 'A.PY', 'b.md', '.env', '.hidden.md', 'c.min.js', 'go.sum', 'README', 'x.png', 'd.json', 'e\udce9.md', 'e\udce8.md', ' f.md', 'g\n.md', 'a.py_chunks.json', 'metrics.jsonl', 'n.ipynb', 'key.pem', 'long' * 62 + '.md')
FOLDERS = ('', 'src/', 'build/', 'node_modules/x/', '.git/', 'venv/', 'a.py_chunks.json/', '\udcff/', '.cache/', 'deep/er/and/', 'vendor/')
CONTENTS = (b'', b' \n', b'x = 1\n', b'\x89PNG\r\n', b'\0\1', 'Gr\xfc\xdfe, viele'.encode('utf-16'), 'na\xefve'.encode('cp1252'), b'{"a": [1', b'// @generated\n', b'word ' * 2000, b'\xff\xfe\x00', b'-----BEGIN PRIVATE KEY-----\n')

@pytest.mark.parametrize('seed', range(8))
def test_the_account_of_odd_trees_adds_up(tmp_path, seed):
    rng, src = random.Random(seed), put(tmp_path/'src/sure.md').parent
    for _ in range(25):
        file = src/(rng.choice(FOLDERS) + rng.choice(NAMES))
        try: put(file, rng.choice(CONTENTS))
        except OSError: continue  # a file where a folder would have to be, or the other way round
    put(src/'venv/pyvenv.cfg')
    if rng.random() < .5: os.symlink(rng.choice(['sure.md', '/proc/self/mem', 'nowhere', '.']), src/'link.md')
    files = sum(len(names) + sum(os.path.islink(os.path.join(folder, sub)) for sub in subs) for folder,subs,names in os.walk(src))
    options = rng.choice([(), ('--all',), ('--all', '--secrets'), ('--limit', '3')])
    about, _ = chunked(src, tmp_path/'tree', *options)
    assert about['found'] == files

def test_a_sample_says_what_it_passed_over(tmp_path):
    about, _ = chunked(many(tmp_path/'src', 30), tmp_path/'tree', '--limit', '4')
    assert about['left_out']['limit'] == 30 - about['cut'] and all(count['chunks'] <= 4 for count in about['subdirectories'].values())

def test_progress_is_told(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(tree.Progress.__init__, '__defaults__', (0,))
    chunked(many(tmp_path/'src', 4), tmp_path/'tree')
    assert '2/4 documents (50.0%)' in capsys.readouterr().err

def test_a_document_that_goes_while_it_is_cut(tmp_path, monkeypatch):
    "As where somebody checks out another branch meanwhile: what was read of it counts, and the next time it is gone."
    for name in 'ab': put(tmp_path/f'src/{name}.py', f'{name} = 1\n')
    cut = tree.cut_safely
    def and_remove(call, text, path):
        (tmp_path/'src'/path).unlink()
        return cut(call, text, path)
    monkeypatch.setattr(tree, 'cut_safely', and_remove)
    about, texts = chunked(tmp_path/'src', tmp_path/'tree')
    assert (about['problems'], texts) == ([], {'a.py': 'a = 1', 'b.py': 'b = 1'})

def test_two_commands_do_not_make_one_tree(tmp_path, capsys):
    "They took each other's chunk files away, and both ended well."
    put(tmp_path/'src/a.md')
    before = chunked(tmp_path/'src', tmp_path/'tree')[1]
    put(tmp_path/'src/b.md')
    with sole_use(tmp_path/'tree.part'):
        assert chunk(tmp_path/'src', tmp_path/'tree') == 2
        assert 'tree.part is in use by this process itself. Wait for it, or name another folder for the tree.' in capsys.readouterr().err
        assert {item.metadata['source']: item.text for item in read_corpus(tmp_path/'tree').chunks} == before
    assert len(chunked(tmp_path/'src', tmp_path/'tree')[1]) == 2
