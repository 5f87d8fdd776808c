"One bad file or chunk never stops the others, and nothing that was found is missing from the sum."
import json, os, random
from pathlib import Path
import pytest
from conftest import read_jsonl, run_cli, summary_of, write_file
from coderank_qdrant.corpus import read_corpus
from coderank_qdrant.files import SKIPPED

def adds_up(c): return c.found == len(c.chunks) + sum(p.chunks for p in c.problems)

@pytest.fixture
def bad(tmp_path):
    "Everything the wild has shown, beside three good chunks."
    root = tmp_path/'bad'
    write_file(root, 'docs/good_chunks.json', ['one', 'two', 'three'])
    raw = {'docs/empty.json': b'', 'docs/not.json': b'hello', 'docs/shape.json': b'{"a": [1, 2]}',
           'docs/cut_chunks.json': b'{"chunks": [{"content": "a"}, {"conte', 'docs/number.json': b'3',
           'docs/numbers.json': b'[1, 2, 3]', 'docs/deep.json': b'[' * 200_000,
           'docs/summary.json': b'{"total_chunks": 3872, "chunks_per_subdirectory": {"a": 1}}',
           'docs/odd_chunks.json': b'{"chunks": [{"content": 5}, {"content": ""}, {"content": " \\n"}, '
                                   b'{"metadata": {}}, null, "text", [1], {"content": "odd but good"}]}',
           'docs/utf16.json': '{"chunks": [{"content": "x"}]}'.encode('utf-16'),
           'docs/latin_chunks.json': b'{"chunks": [{"content": "caf\xe9"}]}',
           'docs/half_chunks.json': b'{"chunks": [{"content": "half \\ud800 pair", '
                                    b'"metadata": {"k\\udc00": ["\\ud800"], "n": NaN}}]}',
           'docs/nul_chunks.json': b'{"chunks": [{"content": "nul \\u0000 inside", "metadata": {"source": "nul.md"}}]}',
           'docs/bom_chunks.json': b'\xef\xbb\xbf{"chunks": [{"content": "bom"}]}',
           'docs/big_chunks.json': b'{"chunks": [{"content": "big", '
                                   b'"metadata": {"n": 123456789012345678901234567890}}]}',
           'docs/sp ace:colon_chunks.json': b'[{"text": "colon"}]',
           'docs/caf\u00e9_chunks.json': b'[{"text": "accent"}]',
           'docs/new\nline_chunks.json': b'[{"text": "newline"}]', 'docs/notes.txt': b'notes'}
    for p,b in raw.items(): (root/p).write_bytes(b)
    open(os.fsencode(str(root/'docs')) + b'/by\xfftes_chunks.json', 'wb').write(b'[{"text": "bytes in the name"}]')
    (root/'docs/link.json').symlink_to('nowhere')
    (root/'docs/folder.json').mkdir()
    os.mkfifo(root/'docs/pipe.json')
    write_file(root, 'a:b/c_chunks.json', ['colon in the folder'], 'x.md')
    return root

def test_every_fault_is_named_and_the_rest_is_read(bad):
    c = read_corpus(bad)
    assert adds_up(c)
    texts = {'one', 'two', 'three', 'odd but good', 'caf\ufffd', 'half \ufffd pair', 'nul \x00 inside', 'bom', 'big',
             'colon', 'accent', 'newline', 'bytes in the name', 'colon in the folder'}
    assert {x.text for x in c.chunks} == texts
    kinds = {(Path(p.path).name, p.kind) for p in c.problems}
    expected = {'not_json': ['empty.json', 'not.json', 'cut_chunks.json', 'deep.json', 'utf16.json'],
                'no_chunks': ['shape.json', 'number.json', 'numbers.json', 'summary.json'],
                'other_file': ['notes.txt'], 'unreadable': ['link.json', 'pipe.json'],
                'repaired': ['latin_chunks.json', 'half_chunks.json']}
    for kind,names in expected.items():
        for name in names: assert (name, kind) in kinds, (name, kind)
    assert sum(p.chunks for p in c.problems) == 7
    assert len({x.id for x in c.chunks}) == len(c.chunks)

def test_the_command_embeds_the_rest_and_the_summary_proves_it(bad, tiny, tmp_path):
    p = run_cli(bad, '--out', tmp_path/'out', '--profile', tiny)
    assert p.returncode == 0, p.stderr
    s, lines = summary_of(tmp_path/'out', 'bad'), read_jsonl(tmp_path/'out/bad_embeddings.jsonl')
    assert s['account'] == dict(found=21, embedded=14, quarantined=0, reported=7, beyond_limit=0)
    assert len(lines) == s['total_embeddings'] == 14
    assert s['skipped_files'] == sum(x['kind'] in SKIPPED for x in s['problems']) == 12

def make_nothing(_): pass
def make_empty(root): root.mkdir()
def make_summary(root): write_file(root, 'a/summary.json', [])
def make_file(root): root.write_text('a file')

@pytest.mark.parametrize('make,says', [(make_nothing, 'Directory not found'), (make_empty, 'No chunk could be read'),
                                       (make_summary, 'No chunk could be read'), (make_file, 'Directory not found')],
                         ids=['missing', 'empty', 'nothing usable', 'a file'])
def test_nothing_to_read_is_exit_2_with_one_line(tmp_path, make, says):
    make(tmp_path/'in')
    p = run_cli(tmp_path/'in', '--out', tmp_path/'out', '--profile', 'offline')
    assert (p.returncode, len(p.stderr.splitlines())) == (2, 1)
    assert says in p.stderr and 'Traceback' not in p.stderr
    assert not (tmp_path/'out').exists()

def test_a_large_file(tmp_path):
    write_file(tmp_path/'big', 'docs/large_chunks.json', ['word ' * 2000 + str(i) for i in range(5200)])
    assert (tmp_path/'big/docs/large_chunks.json').stat().st_size > 50e6
    c = read_corpus(tmp_path/'big')
    assert (len(c.chunks), c.problems) == (5200, [])

def test_two_documents_of_one_name(tmp_path):
    a = [dict(text=f'a{i}', metadata=dict(source='one/x.md')) for i in range(3)]
    b = [dict(text=f'b{i}', metadata=dict(source='two\\x.md')) for i in range(2)]
    (tmp_path/'c/docs').mkdir(parents=True)
    (tmp_path/'c/docs/chunks.json').write_text(json.dumps(a + b))
    c = read_corpus(tmp_path/'c')
    assert len({x.id for x in c.chunks}) == 5 and [p.kind for p in c.problems] == ['same_id'] * 2
    (tmp_path/'c/docs/chunks.json').write_text(json.dumps(b + a))
    again = read_corpus(tmp_path/'c')
    assert {x.id: x.text for x in c.chunks} == {x.id: x.text for x in again.chunks}

def test_a_shared_name_is_reported_with_the_whole_path_of_its_file(tmp_path):
    files = ['docs/a\nb_chunks.json', 'docs/plain_chunks.json']
    for f in files: write_file(tmp_path/'c', f, ['one'], 'x.md')
    c = read_corpus(tmp_path/'c')
    assert [(p.path, p.kind) for p in c.problems] == [(f, 'same_id') for f in files]
    assert adds_up(c) and len({x.id for x in c.chunks}) == 2

def test_a_fixed_chunk_leaves_its_neighbours_ids_alone(tmp_path):
    write_file(tmp_path/'c', 'docs/a_chunks.json', ['one', '', 'three'])
    before = {x.text: x.id for x in read_corpus(tmp_path/'c').chunks}
    write_file(tmp_path/'c', 'docs/a_chunks.json', ['one', 'two', 'three'])
    after = {x.text: x.id for x in read_corpus(tmp_path/'c').chunks}
    assert before.items() <= after.items() and len(after) == 3

def test_damaged_bytes_never_raise(tmp_path):
    "Files with random bytes changed, cut and repeated: read, or named as a problem."
    rng, source = random.Random(0), dict(source='d\\a.md')
    chunks = [dict(content=f'text {i} \u00e9', index=i, metadata=source) for i in range(3)]
    good = json.dumps(dict(total_chunks=3, chunks=chunks), ensure_ascii=False).encode()
    for i in range(400):
        b = bytearray(good)
        for _ in range(rng.randint(1, 4)): b[rng.randrange(len(b))] = rng.randrange(256)
        if i % 3 == 0: b = b[:rng.randrange(len(b))]
        if i % 5 == 0: b += b[rng.randrange(len(b) or 1):]
        (tmp_path/f'f{i}_chunks.json').write_bytes(b)
    c = read_corpus(tmp_path)
    assert adds_up(c) and len(c.chunks) > 100
    assert len({x.id for x in c.chunks}) == len(c.chunks)
    read = {p.path for p in c.problems if p.kind in SKIPPED}
    assert c.files == 400 and 0 < len(read) < 400
    for x in c.chunks: x.text.encode(); json.dumps(x.metadata)
