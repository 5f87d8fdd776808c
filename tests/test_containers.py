"Whatever program wrote a file: its texts are read or it is named, and files and entries add up."
import copy, gzip, io, itertools, json, random
from functools import cache
from pathlib import Path
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from conftest import run_cli, summary_of
from coderank_qdrant.content import chunk_type
from coderank_qdrant.corpus import input_words, read_corpus, with_id
from coderank_qdrant.files import try_file
from coderank_qdrant.parsing import SUFFIXES, Unreadable, unpack

def put(root, path, value):
    "A file with these bytes, this text, or this value as JSON."
    file = Path(root)/path
    file.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(value, bytes): file.write_bytes(value)
    else: file.write_text(value if isinstance(value, str) else json.dumps(value), encoding='utf-8')
    return file

def adds_up(c):
    assert c.found == len(c.chunks) + sum(p.chunks for p in c.problems)
    assert len({x.id for x in c.chunks}) == len(c.chunks)
    return True

def read(root, **files):
    "A corpus of files under `sub`, by their names; a double underscore stands for a dot."
    for name,value in files.items(): put(root, f'sub/{name.replace("__", ".")}', value)
    c = read_corpus(root)
    assert adds_up(c)
    return c

def lines(values): return '\n'.join(map(json.dumps, values)) + '\n'
def types(c): return [chunk_type(x) for x in c.chunks]
def sources(c): return [x.metadata['source'] for x in c.chunks]
def kinds(c): return [p.kind for p in c.problems if p.fault]

TWO = [dict(text='first chunk of a page'), dict(text='second chunk of a page')]

# What people have reported, one test a case

def test_json_lines_under_any_suffix_and_packed(tmp_path):
    c = read(tmp_path, c__jsonl=lines(TWO), d__json=lines(TWO), e__jsonl__gz=gzip.compress(lines(TWO).encode()), f__ndjson=lines(TWO))
    assert (len(c.chunks), kinds(c)) == (8, [])
    assert set(types(c)) == {'docs'} and len(c.guessed) == 8

def test_a_root_with_metas_and_a_large_integer(tmp_path):
    c = read(tmp_path, docling__json=dict(root=[dict(text='a', meta=dict(origin=dict(filename='guide.md', binary_hash=14981478401387673002)))]))
    assert (types(c), sources(c)) == (['docs'], ['sub/guide.md'])
    assert c.chunks[0].metadata['meta']['origin']['binary_hash'] == 14981478401387673002

def test_a_docstore(tmp_path):
    node = dict(text='a node', metadata=dict(file_path='src/a.py'))
    c = read(tmp_path, docstore__json={'docstore/data': {'n1': {'__data__': node, '__type__': '1'}, 'n2': {'__data__': json.dumps(node), '__type__': '1'}}})
    assert ([x.text for x in c.chunks], types(c)) == (['a node'] * 2, ['code'] * 2)
    assert 'LlamaIndex docstore' in c.problems[0].detail and not c.faults

def test_dumps_of_langchain(tmp_path):
    kwargs = dict(page_content='a page', metadata=dict(source='docs/a.md', author='me'))
    c = read(tmp_path, docs__json=[dict(lc=1, type='constructor', id=['langchain', 'schema', 'Document'], kwargs=kwargs)])
    assert (types(c), c.chunks[0].text, c.chunks[0].metadata['author']) == (['docs'], 'a page', 'me')

def test_pages_of_crawlers(tmp_path):
    c = read(tmp_path, pages__json=[dict(markdown='# A page\n\nText.', metadata=dict(sourceURL='https://example.org/docs/a/')),
                                    dict(content=['one paragraph', 'another'], url='https://example.org/b.htm'),
                                    dict(url='https://example.org/c?x=1', markdown=dict(raw_markdown='# C', fit_markdown=''), title='C')])
    assert types(c) == ['docs'] * 3 and not c.guessed
    assert [x.text for x in c.chunks] == ['# A page\n\nText.', 'one paragraph\n\nanother', '# C']

def test_keys_of_paths(tmp_path):
    c = read(tmp_path, a__json=[dict(text='package main', rel_path='cmd/main.go'), dict(text='fn main() {}', path='src/main.rs:12'),
                                dict(text='words', metadata=dict(source='github', file_path='docs/x.rst')), dict(text='x = 1', filepath='a/x.py#L3')])
    assert types(c) == ['code', 'code', 'docs', 'code'] and not c.problems
    assert sources(c) == ['sub/main.go', 'sub/main.rs', 'sub/x.rst', 'sub/x.py']

def test_a_file_names_the_document_of_all_its_chunks(tmp_path):
    c = read(tmp_path, a_chunks__json=dict(source_file='docs\\guide.md', chunks=[dict(content='x'), dict(content='y')]))
    assert (types(c), sources(c)) == (['docs'] * 2, ['sub/guide.md'] * 2)

def test_a_file_that_gave_nothing_says_what_it_has(tmp_path):
    c = read(tmp_path, a_chunks__json=[dict(content='x')], b__json=dict(rows=[dict(body='a text under another key')] * 3))
    assert [p.path for p in c.faults] == ['sub/b.json']
    assert all(word in c.faults[0].detail for word in ('rows', 'body', '--text_key'))
    assert input_words(c).startswith('1 file of 2 could not be read as chunks')
    assert len(read_corpus(tmp_path, text_key='body').chunks) == 4

# The shapes

TEXTS = ['A text about snapshots.', 'def area(r): return r * r', 'A third text, with words.']
SHAPES = {
    'chunks': dict(total_chunks=3, chunks=[dict(content=t, index=i, metadata=dict(source='d/a.md')) for i,t in enumerate(TEXTS)]),
    'list': [dict(text=t, path='d/a.md') for t in TEXTS],
    'strings': TEXTS,
    'by id': {f'n{i}': dict(text=t) for i,t in enumerate(TEXTS)},
    'by path': {f'd/{i}.md': dict(content=t) for i,t in enumerate(TEXTS)},
    'documents': dict(documents=[dict(content=t, meta=dict(file_path='d/a.md')) for t in TEXTS]),
    'points': dict(result=dict(points=[dict(id=i, vector=[.1, .2], payload=dict(text=t, url='https://example.org/a/')) for i,t in enumerate(TEXTS)])),
    'nodes': dict(nodes=[dict(node=dict(text=t, metadata=dict(file_name='a.md')), score=.5) for t in TEXTS]),
    'docstore': {'docstore/data': {f'n{i}': {'__data__': json.dumps(dict(text=t)), '__type__': '1'} for i,t in enumerate(TEXTS)}},
    'langchain': [dict(lc=1, type='constructor', kwargs=dict(page_content=t, metadata=dict(source='d/a.md'))) for t in TEXTS],
    'columns': dict(ids=list('abc'), documents=TEXTS, metadatas=[dict(source='d/a.md'), None, {}], embeddings=None),
    'columns of columns': dict(ids=[list('abc')], documents=[TEXTS], metadatas=[[dict(source='d/a.md'), None, {}]]),
    'pandas': dict(text=dict(zip('012', TEXTS, strict=True)), path=dict.fromkeys('012', 'd/a.md')),
    'rows': dict(features=[dict(name='text')], rows=[dict(row_idx=i, row=dict(text=t)) for i,t in enumerate(TEXTS)]),
    'hits': dict(hits=dict(hits=[dict(_id=str(i), _source=dict(content=t, file='d/a.md')) for i,t in enumerate(TEXTS)])),
    'docling document': dict(schema_name='DoclingDocument', origin=dict(filename='a.md'), texts=[dict(text=t, label='text') for t in TEXTS], tables=[]),
    'unstructured': [dict(type='NarrativeText', element_id=str(i), text=t, metadata=dict(filename='a.md')) for i,t in enumerate(TEXTS)],
    'firecrawl': dict(success=True, data=[dict(markdown=t, metadata=dict(sourceURL='https://example.org/a')) for t in TEXTS]),
    'crawl4ai': [dict(url='https://example.org/a', markdown=dict(raw_markdown=t, fit_markdown='')) for t in TEXTS],
    'repomix': dict(fileSummary={}, directoryStructure='d/', files={f'd/{i}.py': t for i,t in enumerate(TEXTS)}),
    'paragraphs': [dict(content=[t, 'And more.']) for t in TEXTS],
    'lists by path': {'d/a.md': TEXTS[:2], 'd/b.md': [dict(text=TEXTS[2])]},
    'texts by number': {f'chunk_{i}': t for i,t in enumerate(TEXTS)},
    'weaviate': dict(data=dict(Get=dict(Article=[dict(content=t, _additional=dict(id='x')) for t in TEXTS]))),
    'pinecone': dict(vectors=[dict(id=str(i), values=[.1, .2], metadata=dict(text=t, source='d/a.md')) for i,t in enumerate(TEXTS)]),
    'langchain js': [dict(pageContent=t, metadata=dict(source='d/a.md', loc=dict(lines={'from': 1}))) for t in TEXTS],
    'text resources': [dict(id_=str(i), metadata=dict(file_path='d/a.md'), text_resource=dict(text=t)) for i,t in enumerate(TEXTS)],
    'objects with chunks': [dict(file='d/a.md', chunks=[dict(text=t) for t in TEXTS])],
}

@pytest.mark.parametrize('shape', SHAPES)
def test_a_shape(tmp_path, shape):
    c = read(tmp_path, x__json=SHAPES[shape])
    got = [x.text.removesuffix('\n\nAnd more.') for x in c.chunks]
    assert (sorted(got), c.faults) == (sorted(TEXTS), [])
    plain = shape in ('chunks', 'list', 'unstructured', 'paragraphs', 'objects with chunks')
    assert [p.kind for p in c.problems] == ([] if plain else ['read_as'])

@pytest.mark.parametrize('shape', ['list', 'langchain', 'unstructured', 'firecrawl', 'crawl4ai'])
def test_a_shape_as_lines_and_as_one_object_a_file(tmp_path, shape):
    entries = SHAPES[shape] if isinstance(SHAPES[shape], list) else SHAPES[shape]['data']
    c = read(tmp_path/'lines', x__jsonl=lines(entries))
    assert sorted(x.text for x in c.chunks) == sorted(TEXTS) and not c.faults
    for i,entry in enumerate(entries): put(tmp_path/'files', f'sub/{i}.json', entry)
    c = read_corpus(tmp_path/'files')
    assert adds_up(c) and sorted(x.text for x in c.chunks) == sorted(TEXTS) and set(kinds(c)) <= {'same_id'}
    assert len([p for p in c.problems if p.kind == 'read_as']) == 1  # for all three files

NO_CHUNKS = dict(documents=['a.md', 'b.md'], total=2), dict(documents=[dict(name='a.md', chunks=3)]), dict(results=[]), {}, [], dict(chunks=[]), \
    dict(chunks_per_subdirectory=dict(a=1)), dict(files={'a.md': 3}), [[1, 2], [3, 4]], ['a.md', 'd/b.md'], dict(name='x', version='1.0', files=['lib']), 3, None, 'text'

@pytest.mark.parametrize('value', NO_CHUNKS, ids=lambda value: json.dumps(value)[:30])
def test_what_has_no_text_is_not_embedded(tmp_path, value):
    c = read(tmp_path, x__json=json.dumps(value))
    assert (c.chunks, [p.kind for p in c.problems]) == ([], ['no_chunks'])

def test_tables(tmp_path):
    pa = pytest.importorskip('pyarrow')
    from pyarrow import feather, parquet
    table = pa.table(dict(content=TEXTS, source=['d/a.md', 'd/b.py', 'd/c.md'], embedding=[[.1, .2]] * 3))
    (tmp_path/'sub').mkdir()
    parquet.write_table(table, tmp_path/'sub/a.parquet')
    feather.write_feather(table, tmp_path/'sub/b.feather', compression='uncompressed')
    with pa.ipc.new_stream(tmp_path/'sub/c.arrow', table.schema) as stream: stream.write_table(table)
    c = read_corpus(tmp_path)
    assert adds_up(c) and not [p for p in c.faults if p.kind != 'same_id']
    assert [x.text for x in c.chunks] == TEXTS * 3 and types(c)[:3] == ['docs', 'code', 'docs']

def test_a_table_without_pyarrow_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__('sys').modules, 'pyarrow', None)
    c = read(tmp_path, a__parquet=b'PAR1 and so on PAR1')
    assert c.problems[0].kind == 'unreadable' and 'coderank_qdrant[parquet]' in c.problems[0].detail

# Lines, bombs, hidden files

def test_a_broken_line_is_named_and_the_others_are_read(tmp_path):
    c = read(tmp_path, a__jsonl='{"text": "one"}\n{"text": "tw\n\n[1, 2]\n{"text": "four"}\n17\n')
    assert [x.text for x in c.chunks] == ['one', 'four'] and c.found == 5
    broken = [p for p in c.problems if p.kind == 'broken_line']
    assert [(p.chunks, 'lines 2' in p.detail) for p in broken] == [(1, True)]

def test_a_bomb_is_a_problem(tmp_path):
    c = read(tmp_path, a__json__gz=gzip.compress(bytes(80 * 2**20)), b_chunks__json=TWO)
    assert (len(c.chunks), kinds(c)) == (2, ['unreadable']) and 'unpacks to more' in c.faults[0].detail
    with pytest.raises(Unreadable): unpack(gzip.compress(b'a' * 100) * 50, 1000)  # many small members

def test_hidden_files_and_folders_are_counted(tmp_path):
    for name in '.git/config', '.git/objects/aa/bb', '.DS_Store', 'sub/._a.json', 'sub/.ipynb_checkpoints/a.json', 'sub/..odd.json', 'sub/b.zip':
        put(tmp_path, name, 'xyz')
    c = read(tmp_path, a__json=TWO)
    assert sorted((p.path, p.files) for p in c.problems if p.kind == 'hidden') == [
        ('.DS_Store', 1), ('.git', 2), ('sub/..odd.json', 1), ('sub/._a.json', 1), ('sub/.ipynb_checkpoints', 1)]
    assert (c.files, c.skipped_files, len(c.chunks)) == (8, 7, 2)
    assert '1 file of 2 could not be read as chunks; 6 hidden files left alone' in input_words(c)
    assert all('bytes' in p.detail for p in c.problems)

def test_an_output_inside_of_the_input_is_not_read(tmp_path):
    put(tmp_path, 'out/vectors.sqlite', b'')
    put(tmp_path, 'out/x_embeddings.jsonl', lines(TWO))
    put(tmp_path, 'out/metrics.jsonl', lines(TWO))
    c = read(tmp_path, a__json=TWO)
    assert len(c.chunks) == 2 and len([p for p in c.problems if 'output' in p.detail]) == 3

# Where a chunk comes from

@pytest.mark.parametrize('entry,kind', [
    (dict(source='LICENSE'), 'other'), (dict(source='a/report.pdf'), 'other'), (dict(url='https://a.org'), 'docs'), (dict(url='https://a.org/x.html?q=a.py'), 'docs'),
    (dict(url='https://a.org/raw/x.py'), 'code'), (dict(language='python'), 'code'), (dict(metadata=dict(language='Rust')), 'code'), (dict(language='en'), 'docs'),
    (dict(source='LICENSE', language='python'), 'code'), (dict(source='x.md', language='python'), 'docs'), (dict(file='Makefile'), 'code'),
    (dict(meta=dict(loc=dict(path='a/b.ts'))), 'code'), (dict(origin=dict(filename='b.md')), 'docs'), (dict(source='one\ntwo.py'), 'docs'), (dict(source='x' * 2000 + '.py'), 'docs')],
    ids=lambda value: json.dumps(value)[:40])
def test_what_tells_the_kind(tmp_path, entry, kind):
    c = read(tmp_path, pages__json=[dict(text='Some words about it.', **entry)])
    assert types(c) == [kind]

def test_a_guess_is_called_one(tmp_path):
    program = 'import os\n\ndef sizes(folder):\n    return [f.stat().st_size for f in folder]\n'
    c = read(tmp_path, pages__json=[dict(text=program), dict(text='Words, and more of them.'), dict(text=program, source='a.md'), dict(text='x', url='https://a.org')])
    assert types(c) == ['code', 'docs', 'docs', 'docs'] and len(c.guessed) == 2

def test_source_key_comes_first(tmp_path):
    put(tmp_path, 'sub/a.json', [dict(text='x = 1', source='wrong.md', where=dict(at='src/right.py'))])
    assert read_corpus(tmp_path, source_key='where.at').chunks[0].id.endswith(':right.py:chunk:0')

def test_the_command_says_it_and_strict_counts_it(tmp_path, tiny):
    put(tmp_path, 'in/sub/a_chunks.json', [dict(content='x')])
    put(tmp_path, 'in/sub/b.json', dict(rows=[dict(body='a text under another key', at='src/a.py')] * 3))
    p = run_cli(tmp_path/'in', '--out', tmp_path/'out', '--profile', tiny, '--strict')
    assert p.returncode == 3 and '1 file of 2 could not be read as chunks' in p.stderr and 'a guess from the text' in p.stderr
    p = run_cli(tmp_path/'in', '--out', tmp_path/'out', '--profile', tiny, '--strict', '--text_key', 'body', '--source_key', 'at')
    assert p.returncode == 0, p.stderr
    s = summary_of(tmp_path/'out', 'in')
    assert s['account'] == dict(found=4, embedded=4, quarantined=0, reported=0, beyond_limit=0)
    assert (s['files'], s['skipped_files']) == (2, 0)
    assert [x['kind'] for x in s['problems']] == ['read_as']

# 1,000 mutations of each shape

ODD = None, True, 0, -1.5, 2**63, 10**400, '', ' ', 'x', 'a.md', '\ud800', 'two\nlines', [], {}, [[]], [None], {'': None}, {'text': 1}, ['a', 1], {'chunks': {}}, [.1] * 9

def places(value, path=()):
    "Paths to all values inside of a value."
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key,inner in items: yield from places(inner, (*path, key))

def mutate(value, rng):
    "Replace, drop, double, wrap or rename something inside of a value."
    holder = [copy.deepcopy(value)]
    for _ in range(rng.randint(1, 3)):
        *path,key = rng.choice([(0, *path) for path in places(holder[0])])
        inside = holder
        for step in path: inside = inside[step]
        how = rng.randrange(6)
        if how == 0: inside[key] = copy.deepcopy(rng.choice(ODD))
        elif how == 1 and inside is not holder: del inside[key]
        elif how == 2 and isinstance(inside, list): inside.append(copy.deepcopy(inside[key]))
        elif how == 3: inside[key] = [inside[key]]
        elif how == 4 and isinstance(inside, dict): inside[rng.choice(['text', 'data', 'metadata', 'source', 'node', 'payload', key + 'x'])] = inside.pop(key)
        elif how == 5: inside[key] = {rng.choice(['data', 'rows', 'text', 'a.md', '0']): inside[key]}
    return holder[0]

def damage(data, rng):
    "Bytes changed, cut or repeated."
    data = bytearray(data)
    for _ in range(rng.randint(1, 3)): data[rng.randrange(len(data))] = rng.randrange(256)
    if rng.random() < .3: data = data[:rng.randrange(len(data))]
    if rng.random() < .2: data += data[rng.randrange(len(data) or 1):]
    return bytes(data)

@cache
def table_bytes(form):
    pa = pytest.importorskip('pyarrow')
    from pyarrow import feather, parquet
    table, file = pa.table(dict(text=TEXTS, source=['a.md'] * 3)), io.BytesIO()
    parquet.write_table(table, file) if form == 'parquet' else feather.write_feather(table, file)
    return file.getvalue()

FORMS = {**{shape: '.json' for shape in SHAPES}, 'lines': '.jsonl', 'packed lines': '.jsonl.gz', 'packed': '.json.gz', 'parquet': '.parquet', 'arrow': '.arrow'}

def mutant(form, rng):
    "A file of a form with something wrong in it."
    if form in SHAPES:
        data = json.dumps(mutate(SHAPES[form], rng)).encode()
        return damage(data, rng) if rng.random() < .2 else data
    if form in ('parquet', 'arrow'): return damage(table_bytes(form), rng)
    data = lines([mutate(entry, rng) for entry in SHAPES['langchain']]).encode()
    if rng.random() < .5: data = damage(data, rng)
    if 'packed' not in form: return data
    data = gzip.compress(data, 1)
    return damage(data, rng) if rng.random() < .5 else data

class InMemory:
    "A file that is not on a disk, for `_try_file`."
    def __init__(self, name, data): self.name, self.data = name, data
    def is_file(self): return True
    def read_bytes(self): return self.data
    def __fspath__(self): return self.name

@pytest.mark.parametrize('form', FORMS)
@settings(max_examples=50, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 2**32))
def test_mutations_never_raise_and_add_up(form, seed):
    "20 mutants an example, 50 examples a form."
    rng = random.Random(seed)
    name = f'x{FORMS[form]}'
    for _ in range(20):
        raws, problems, found, _ = try_file(InMemory(name, mutant(form, rng)), Path('sub')/name)
        chunks = [with_id(raw, 'c', raw.filename) for raw in raws]
        assert found == len(chunks) + sum(p.chunks for p in problems)
        assert chunks or problems
        for x in chunks:
            x.text.encode()
            json.dumps(x.metadata)
            assert chunk_type(x) in ('code', 'docs', 'other')

def test_chunks_in_files_of_their_own_say_where_they_stand(tmp_path):
    for i in range(12): put(tmp_path, f'sub/{i}.json', dict(text=f'text {i}', metadata=dict(source='d/a.md', chunk_index=i)))
    c = read_corpus(tmp_path)
    assert adds_up(c) and not c.faults
    assert {x.id.rsplit(':', 1)[1]: x.text for x in c.chunks} == {str(i): f'text {i}' for i in range(12)}

def test_all_suffixes_are_read_or_named(tmp_path):
    for i,suffix in enumerate(itertools.chain(SUFFIXES, ['.txt', '.zip', ''])): put(tmp_path, f'sub/{i}{suffix}', b'\x00')
    c = read_corpus(tmp_path)
    assert adds_up(c) and c.skipped_files == c.files == len(SUFFIXES) + 3
