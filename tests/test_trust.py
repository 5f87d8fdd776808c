"Only our own code runs, whatever lies in the folders of a run."
import json, os, shutil, sqlite3, subprocess, sys, tempfile
from pathlib import Path
import orjson
import pytest
from hypothesis import given, settings, strategies as st
from conftest import summary_of, write_file
from coderank_qdrant.corpus import read_corpus
from coderank_qdrant.command import InputError, run_command

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

@pytest.fixture(scope='module')
def finished(tiny, tmp_path_factory):
    "A finished run and its collection, to be damaged."
    from coderank_qdrant.index import index_run
    from coderank_qdrant.pipeline import embed_corpus
    root = tmp_path_factory.mktemp('finished')
    write_file(root/'in', 'docs/a_chunks.json', ['a text', 'another text'])
    embed_corpus(root/'in', root/'out', profile=str(tiny), devices='cpu')
    index_run(root/'out', root/'index')
    return root

ODD = dict(null='null', number='3', list='[]', object='{}', deep='[' * 2000, bytes=b'\xff\xfe', empty='', part='{"format": 1}',
           models='{"format": 1, "collection": "c", "models": [], "bm25": null, "navigation": "keep", "quantization": null}',
           half='{"id": "a", "text": "t", "metadata": {}}', vector='{"id": "a", "text": "t", "embedding": null, "metadata": {"model": "x"}}')

@pytest.mark.parametrize('kind', ODD)
@pytest.mark.parametrize('file', ['index/collection.json', 'out/in_embeddings.jsonl', 'out/in_embedding_summary.json'])
def test_files_that_are_read_again_may_hold_anything(file, kind, finished, tmp_path):
    "Each damage is one sentence with the file's name, and nothing else."
    from coderank_qdrant.index import index_run
    from coderank_qdrant.search import search
    root = shutil.copytree(finished, tmp_path/'w')
    (root/file).write_bytes(ODD[kind] if isinstance(ODD[kind], bytes) else ODD[kind].encode())
    with pytest.raises(InputError) as error:
        if file.startswith('index'): search('text', root/'index', mode='sparse', device='cpu')
        else: index_run(root/'out', tmp_path/'new')
    assert Path(file).name in str(error.value) and '\n' not in str(error.value), error.value

@pytest.mark.parametrize('make', [lambda p: p.write_text('x'), lambda p: os.mkfifo(p), lambda p: p.symlink_to('/nowhere/at/all'), lambda p: (p.mkdir(), (p/'vectors.sqlite').mkdir())],
                         ids=['file', 'fifo', 'broken link', 'folder for a file'])
def test_an_output_folder_that_is_none(make, tiny, finished, tmp_path):
    from coderank_qdrant.pipeline import coderank_embed
    make(tmp_path/'out')
    codes = run_command(coderank_embed.__wrapped__, [str(finished/'in'), '--out', str(tmp_path/'out'), '--profile', str(tiny)])
    assert codes == 2

def test_a_fault_of_ours_is_a_line_too(capsys):
    def broken(n:int): raise ZeroDivisionError('of our own')
    assert run_command(broken, ['1']) == 2
    said = capsys.readouterr().err
    assert 'ZeroDivisionError: of our own' in said and '--debug' in said and 'Traceback' not in said
    with pytest.raises(ZeroDivisionError): run_command(broken, ['1', '--debug'])

@pytest.mark.parametrize('depth', [61, 127, 200, 260, 500, 900])
def test_metadata_of_any_depth_is_kept(depth, tiny, tmp_path):
    "Edge could not open its folder again from 126 levels on; planning ended with a traceback from 260 on."
    from coderank_qdrant.index import index_run
    from coderank_qdrant.pipeline import embed_corpus
    from coderank_qdrant.search import search
    (tmp_path/'in').mkdir()
    (tmp_path/'in/a_chunks.json').write_text('{"chunks": [{"content": "a text", "metadata": {"source": "a.md", "tree": ' + '[' * depth + ']' * depth + '}}]}')
    run = embed_corpus(tmp_path/'in', tmp_path/'out', profile=str(tiny), devices='cpu')
    assert any('JSON in a string' in problem['detail'] for problem in run.summary['problems'])
    for _ in range(2): assert index_run(run, tmp_path/'index')['points'] == 1
    hit, = search('text', tmp_path/'index', mode='sparse', device='cpu')
    tree, levels = hit.metadata['tree'], 0
    while isinstance(tree, list): tree, levels = tree[0], levels + 1
    assert tree == '[' * (depth - levels) + ']' * (depth - levels), 'nothing of it is lost'

@pytest.fixture
def linked(tmp_path):
    "A corpus with links to a file and a folder outside, to a file and a folder of its own, and in a circle."
    outside = tmp_path/'outside'
    write_file(outside, 'secret_chunks.json', ['a text of somebody else'], 'secret.md')
    root = tmp_path/'in'
    write_file(root, 'docs/a_chunks.json', ['a text', 'another text'], 'a.md')
    for path,target in {'docs/secret_chunks.json': outside/'secret_chunks.json', 'outside': outside, 'docs/same_chunks.json': 'a_chunks.json', 'copy': root/'docs', 'docs/circle': root}.items():
        (root/path).symlink_to(target)
    return root

def test_links_stay_inside_and_change_nothing(linked, tmp_path):
    from coderank_qdrant.corpus import read_corpus
    plain = read_corpus(shutil.copytree(linked, tmp_path/'plain/in', ignore=lambda folder, names: [name for name in names if Path(folder, name).is_symlink()]))
    found = read_corpus(linked)
    assert [(chunk.id, chunk.text) for chunk in found.chunks] == [(chunk.id, chunk.text) for chunk in plain.chunks]
    said = {problem.path: problem.detail for problem in found.problems if problem.kind == 'link'}
    assert set(said) == {'docs/secret_chunks.json', 'outside', 'docs/same_chunks.json', 'copy', 'docs/circle'}
    assert {path for path,why in said.items() if '--follow_links' in why} == {'outside', 'docs/secret_chunks.json'}
    assert found.skipped_files == 5 and found.found == len(found.chunks) == 2
    assert 'a text of somebody else' in [chunk.text for chunk in read_corpus(linked, follow_links=True).chunks]

def test_a_corpus_of_links_says_what_to_do(linked, tmp_path):
    "As in the cache of a hub, where every file is a link to a folder beside it."
    from coderank_qdrant.corpus import read_corpus, usable_corpus
    (tmp_path/'links').mkdir()
    (tmp_path/'links/a_chunks.json').symlink_to(linked/'docs/a_chunks.json')
    with pytest.raises(InputError, match='--follow_links'): usable_corpus(tmp_path/'links')
    (tmp_path/'way').symlink_to(linked)
    assert len(read_corpus(tmp_path/'way').chunks) == 2, 'the folder that is named may be reached by a link'
    assert len(usable_corpus(tmp_path/'links', follow_links=True).chunks) == 2

@pytest.mark.parametrize('name,text', [('sentence_bert_config.json', 'null'), ('sentence_bert_config.json', '[]'), ('sentence_bert_config.json', '{"max_seq_length": 2}'),
                                       ('sentence_bert_config.json', '{"max_seq_length": "long"}'), ('config.json', 'null'), ('config.json', '[]'), ('config.json', '3'),
                                       ('config.json', '[' * 2000), ('modules.json', 'null'), ('modules.json', '{}'), ('config_sentence_transformers.json', '[]'), ('tokenizer.json', 'null')])
def test_a_model_folder_may_hold_anything(name, text, tiny, finished, tmp_path):
    "What cannot work is refused before anything is computed, with the name of the folder."
    from coderank_qdrant.pipeline import embed_corpus
    model = shutil.copytree(tiny, tmp_path/'odd')
    (model/name).write_text(text)
    with pytest.raises(InputError) as error: embed_corpus(finished/'in', tmp_path/'out', profile=str(model), devices='cpu')
    assert 'odd' in str(error.value) and not list((tmp_path/'out').glob('*.jsonl'))[1:], error.value

def test_what_cannot_be_a_file_is_refused_early(tiny, finished, tmp_path):
    from coderank_qdrant.pipeline import embed_corpus
    with pytest.raises(InputError, match='too many for the name of a file'):
        embed_corpus(finished/'in', tmp_path/'out', profile=str(tiny), devices='cpu', collection='x' * 300)
    assert not (tmp_path/'out').exists()
    (tmp_path/'theirs').mkdir()
    db = sqlite3.connect(tmp_path/'theirs/vectors.sqlite')
    db.execute('create table models (name)')
    db.close()
    with pytest.raises(InputError, match='a database of another program'): embed_corpus(finished/'in', tmp_path/'theirs', profile=str(tiny), devices='cpu')

NAMES = 'a.md', 'A.md', 'a.MD', 'caf\u00e9.md', 'cafe\u0301.md', 'b:a.md', 'a.md:chunk:0', 'x/a.md', 'y/a.md', 's/a.md', '../a.md', 'a.md~', '\u202ea.md'
FILES = 's/one.json', 's/two.json', 's/ONE.json', 's:b/one.json', 's/b/a.md_chunks.json', 'one.json', 'S/one.json', 's/caf\u00e9.json', 's/cafe\u0301.json'

@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.sampled_from(FILES), st.lists(st.sampled_from(NAMES), min_size=1, max_size=4), min_size=1, max_size=5))
def test_ids_are_distinct_whatever_coincides(tree):
    "Names, sources, case, Unicode forms, separators; and documents that are called as another one is marked."
    from coderank_qdrant.corpus import read_corpus
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)/'c'
        def put(path, sources):
            (root/path).parent.mkdir(parents=True, exist_ok=True)
            (root/path).write_text(json.dumps([dict(text=f'text {i}', source=source) for i,source in enumerate(sources)]))
        for path,sources in tree.items(): put(path, sources)
        first = read_corpus(root)
        put('s/marks.json', [chunk.id.split(':', 2)[2].rpartition(':chunk:')[0] for chunk in first.chunks])
        for corpus in first, read_corpus(root):
            ids = [chunk.id for chunk in corpus.chunks]
            assert len(set(ids)) == len(ids) == corpus.found

DEEP = b'[' * 600 + b'1' + b']' * 600

@pytest.mark.parametrize('written,key,kept', [
    (b'"n": 1180591620717411303424', 'n', '1180591620717411303424'),
    (b'"n": -9223372036854775809', 'n', '-9223372036854775809'),
    (b'"n": 18446744073709551615', 'n', 2**64 - 1),
    (b'"n": ' + b'9' * 6000, 'n', '9' * 6000),
    (b'"n": [1, {"m": 100000000000000000000 }], "x": NaN', 'n', [1, {'m': '100000000000000000000'}]),
    (b'"s": "the number 100000000000000000000, in words", "f": 1.5', 's', 'the number 100000000000000000000, in words'),
    (b'"\\ud800": 1, "\\ud801": 2, "\\ufffd": 3', '\ufffd', 3),
    (b'"\\ud800": 1, "\\ud801": 2', '\ufffd_', 2),
    (b'"x": NaN, "deep": ' + DEEP, 'x', None),
    (b'"x": "\\ud800", "deep": ' + DEEP, 'x', '\ufffd'),
    (b'"n": 100000000000000000000, "deep": ' + DEEP, 'n', '100000000000000000000')])
def test_metadata_keeps_its_digits_and_keys(written, key, kept, tmp_path):
    "Nothing is rounded, merged or lost with its file because of what stands beside it."
    file = tmp_path/'in/docs/a_chunks.json'
    file.parent.mkdir(parents=True)
    file.write_bytes(b'{"chunks": [{"content": "a text", "metadata": {"source": "a.md", ' + written + b'}}]}')
    chunk, = read_corpus(tmp_path/'in').chunks
    assert chunk.metadata[key] == kept and type(chunk.metadata[key]) is type(kept)
    orjson.dumps(chunk.metadata)

def linked_copy(folder, target):
    "A model's folder with links to its files, of which a test replaces one."
    return shutil.copytree(folder, target, copy_function=os.symlink)

def changed(file, data=b'{}'):
    "Put a file in the place of another one, or beside the others."
    file.parent.mkdir(parents=True, exist_ok=True)
    before = file.read_bytes() if file.exists() else b''
    file.unlink(missing_ok=True)
    file.write_bytes(before + b' ' + data)

@pytest.fixture(scope='module')
def dense(tiny, tmp_path_factory):
    "A model with sentence-transformers' files, and a module whose weights are no safetensors."
    from conftest import as_sentence_model
    folder = shutil.copytree(tiny, tmp_path_factory.mktemp('dense')/'model')
    as_sentence_model(folder, 32, 'mean_tokens', normalise=True)
    modules = json.loads((folder/'modules.json').read_text())
    (folder/'modules.json').write_text(json.dumps([*modules, dict(idx=3, name='3', path='3_Dense', type='sentence_transformers.models.Dense')]))
    changed(folder/'3_Dense/config.json')
    changed(folder/'3_Dense/pytorch_model.bin', b'weights')
    return folder

@pytest.mark.parametrize('name', ['README.md', 'LICENSE.txt', 'picture.png', 'training_args.json', 'onnx/model.onnx', 'onnx/config.json', 'pytorch_model.bin', 'consolidated.safetensors',
                                  'out/in_embedding_summary.json', 'out/in/a_chunks.json', 'model.safetensors.index.json'])
def test_what_lies_beside_a_model_changes_nothing(name, dense, tmp_path):
    from coderank_qdrant.fingerprint import fingerprint
    from coderank_qdrant.models import count_weights, folder_card
    folder = linked_copy(dense, tmp_path/'m')
    card, before, weights = folder_card(folder), fingerprint(folder_card(folder), folder), count_weights(folder)
    stray = (folder/'model.safetensors').read_bytes() if name.endswith('.safetensors') else b'{}'
    (folder/name).parent.mkdir(parents=True, exist_ok=True)
    (folder/name).write_bytes(stray)
    assert fingerprint(card, folder) == before and count_weights(folder) == weights

@pytest.mark.parametrize('name', ['config.json', 'model.safetensors', 'tokenizer.json', 'tokenizer_config.json', 'special_tokens_map.json', 'vocab.txt', 'modules.json', '1_Pooling/config.json', '3_Dense/config.json',
                                  '3_Dense/pytorch_model.bin', 'sentence_bert_config.json', 'added_tokens.json', 'spiece.model'])
def test_what_loading_reads_changes_the_fingerprint(name, dense, tmp_path):
    from coderank_qdrant.fingerprint import fingerprint
    from coderank_qdrant.models import folder_card
    folder = linked_copy(dense, tmp_path/'m')
    card, before = folder_card(folder), fingerprint(folder_card(folder), folder)
    changed(folder/name, b'' if name.endswith('.json') and (folder/name).exists() else b'{}')
    assert fingerprint(card, folder) != before

def test_shards_are_those_of_the_index(missions_models, tmp_path):
    from coderank_qdrant.fingerprint import fingerprint
    from coderank_qdrant.models import count_weights, folder_card
    folder = linked_copy(missions_models/'nomic-embed-code', tmp_path/'m')
    card, before, weights = folder_card(folder), fingerprint(folder_card(folder), folder), count_weights(folder)
    first, *_, last = sorted(folder.glob('*.safetensors'))
    (folder/'consolidated.safetensors').symlink_to(last.resolve())
    assert fingerprint(card, folder) == before and count_weights(folder) == weights
    changed(first)
    assert fingerprint(card, folder) != before

OPENED: list = []
sys.addaudithook(lambda event, args: OPENED.append(str(args[0])) if event == 'open' else None)

@pytest.mark.parametrize('name', ['CodeRankEmbed', 'nomic-embed-code', 'CodeRankLLM'])
def test_loading_opens_nothing_that_the_fingerprint_leaves_out(name, missions_models):
    "But for what is read for generating text and for chats."
    from coderank_qdrant.encoder import load_encoder
    from coderank_qdrant.fingerprint import shaping_files
    from coderank_qdrant.models import folder_card, load_tokenizer
    folder = missions_models/name
    OPENED.clear()
    load_encoder(folder_card(folder), folder)
    load_tokenizer(folder)
    opened = {Path(file).relative_to(folder).as_posix() for file in OPENED if file.startswith(f'{folder}/')}
    assert 'config.json' in opened and opened - {'generation_config.json', 'chat_template.jinja'} <= {*shaping_files(folder)}

def test_other_weights_of_the_same_size_and_time_are_noticed(tmp_path, monkeypatch):
    from coderank_qdrant.fingerprint import content_hash, remembered_hashes
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path/'cache'))
    file, found = tmp_path/'model.safetensors', []
    for letter in b'ab':
        file.write_bytes(bytes([letter]) * 400_000)
        os.utime(file, ns=(10**18, 10**18))
        found.append(remembered_hashes([file])[file])
        assert found[-1] == content_hash(file)
    assert len({*found}) == 2
    monkeypatch.setattr('coderank_qdrant.fingerprint.content_hash', lambda file: pytest.fail('hashed again'))
    assert remembered_hashes([file])[file] == found[-1]

def test_a_run_of_an_earlier_version_goes_on(tiny, tmp_path, monkeypatch):
    "Its vectors, its collection and its questions keep the name that the space had."
    from coderank_qdrant import model_plan
    from coderank_qdrant.fingerprint import fingerprint, fingerprints
    from coderank_qdrant.index import index_run
    from coderank_qdrant.pipeline import embed_corpus
    from coderank_qdrant.search import search
    model = linked_copy(tiny, tmp_path/'m')
    (model/'data_config.json').write_text('{}')
    write_file(tmp_path/'in', 'docs/a_chunks.json', ['a text', 'another text'])
    with monkeypatch.context() as earlier:
        earlier.setattr(model_plan, 'fingerprint', lambda *args: list(fingerprints(*args))[-1])
        old = embed_corpus(tmp_path/'in', tmp_path/'out', profile=str(model), devices='cpu')
        index_run(old, tmp_path/'index')
    run = embed_corpus(tmp_path/'in', tmp_path/'out', profile=str(model), devices='cpu')
    name, = (told['fingerprint'] for told in run.summary['models'])
    assert (run.summary['computed'], run.summary['cached']) == (0, 2)
    assert [name] == [told['fingerprint'] for told in old.summary['models']] and name != fingerprint(run.plan.models[0].card, model)
    assert index_run(run, tmp_path/'index')['written'] == 0
    assert search('text', tmp_path/'index', mode='dense', model=str(model), device='cpu')
