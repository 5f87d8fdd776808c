"Weights as people bring them: hub caches, folders of any name, half models, and what must never be taken for a model."
import json, os, shutil
import pytest
from conftest import make_nomic_bert, make_qwen2
from coderank_qdrant import places
from coderank_qdrant.command import InputError
from coderank_qdrant.models import CARDS, NoWeights, find_model, find_weights
from coderank_qdrant.weights import SHAPES, in_models_dir, on_kaggle_input

CARD = {card.name: card for card in CARDS}
MOUNTS = ['my-weights-v2', 'datasets/ann/my-weights-v2', 'my-weights-v2/export/final', 'model/transformers/default/1', 'models/ann/m/pytorch/base/3']

def short(folder): return '/'.join(folder.parts[-3:])

def weights(file, n=64):
    header = json.dumps({'x': dict(dtype='U8', shape=[n], data_offsets=[0, n])}).encode()
    file.write_bytes(len(header).to_bytes(8, 'little') + header + bytes(n))

def put(folder, name='CodeRankEmbed', files=('model.safetensors',), **changes):
    "A folder with the config.json of a registered model and a few bytes of weights."
    folder.mkdir(parents=True, exist_ok=True)
    s = SHAPES[name]
    width = dict(n_embd=s.width, n_layer=s.layers) if s.kind == 'nomic_bert' else dict(hidden_size=s.width, num_hidden_layers=s.layers)
    config = dict(model_type=s.kind, vocab_size=s.vocabulary, architectures=[f'A{"For" + s.task if s.task else "Model"}'], **width)
    (folder/'config.json').write_text(json.dumps({**config, **changes}))
    (folder/'tokenizer.json').write_text('{}')
    for f in files: weights(folder/f)
    return folder

def hub_cache(root, hub_id, blobs='link', ref=True, commit='a1'):
    "A model in a hub cache: its files links to blobs, or files; with or without refs."
    repo = root/f'models--{hub_id.replace("/", "--")}'
    folder = put(repo/'snapshots'/commit, hub_id.split('/')[1])
    (repo/'blobs').mkdir(exist_ok=True)
    if blobs == 'link':
        for i,f in enumerate(sorted(folder.iterdir())):
            f.rename(repo/'blobs'/f'{commit}{i}')
            f.symlink_to(f'../../blobs/{commit}{i}')
    if ref:
        (repo/'refs').mkdir(exist_ok=True)
        (repo/'refs/main').write_text(commit)
    return folder

def find(name, root):
    card = CARD[name]
    return find_weights(name, card.hub_id, None, None, inputs=root)

@pytest.fixture(autouse=True)
def alone(monkeypatch, tmp_path):
    "No network and no hub cache of the machine."
    from huggingface_hub import constants
    monkeypatch.setenv('HF_HUB_OFFLINE', '1')
    monkeypatch.setattr(constants, 'HF_HUB_CACHE', str(tmp_path/'no-hub'))

@pytest.mark.parametrize('name', CARD)
@pytest.mark.parametrize('mount', MOUNTS)
def test_a_folder_of_any_name_is_known_by_its_config(tmp_path, name, mount):
    extra = {'modules.json'} if name.startswith(('nomic-embed-code', 'Qwen3')) else ()
    folder = put(tmp_path/mount, name)
    for f in extra: (folder/f).write_text('[]')
    found, place = find(name, tmp_path)
    assert found == folder and place.startswith('kaggle (') and '/'.join(folder.parts[-3:]) in place and 'known by its config.json' in place
    for other in CARD.keys() - {name}:
        with pytest.raises(InputError): on_kaggle_input(other, tmp_path)

@pytest.mark.parametrize('where', ['', 'cache', 'datasets/ann/cache/huggingface/hub'])
@pytest.mark.parametrize('blobs', ['link', 'file'])
@pytest.mark.parametrize('ref', [True, False])
def test_a_hub_cache_as_a_data_set(tmp_path, where, blobs, ref):
    folders = {hub_id: hub_cache(tmp_path/where, hub_id, blobs, ref) for hub_id in ('nomic-ai/CodeRankEmbed', 'nomic-ai/CodeRankLLM')}
    for hub_id,folder in folders.items(): assert find(hub_id.split('/')[1], tmp_path) == (folder, 'kaggle')

def test_a_hub_cache_of_another_model_of_the_same_size_is_that_other_model(tmp_path):
    folder = hub_cache(tmp_path, 'nomic-ai/CodeRankLLM')
    folder.parents[1].rename(tmp_path/'models--Qwen--Qwen2.5-Coder-7B-Instruct')
    with pytest.raises(InputError, match='is called CodeRankLLM'): on_kaggle_input('CodeRankLLM', tmp_path)

def test_the_newest_snapshot_that_is_whole(tmp_path):
    old, new = (hub_cache(tmp_path, 'nomic-ai/CodeRankEmbed', commit=c) for c in ('a1', 'b2'))
    assert on_kaggle_input('CodeRankEmbed', tmp_path) == new
    (new/'model.safetensors').resolve().unlink()
    found, place = find('CodeRankEmbed', tmp_path)
    assert found == old and f'{short(new)} was passed over: model.safetensors is a link to a file that is not there' in place

@pytest.mark.parametrize('part', ['2_Dense', '1_Pooling', 'checkpoint-500', 'onnx', 'openvino', '.hidden', 'inner', 'CodeRankEmbed', 'coderankembed/deeper'])
@pytest.mark.parametrize('mount', ['my-weights-v2', 'CodeRankEmbed'])
def test_nothing_below_a_model_wins_over_it(tmp_path, part, mount):
    folder = put(tmp_path/mount)
    put(folder/part)
    assert on_kaggle_input('CodeRankEmbed', tmp_path) == folder == in_models_dir('CodeRankEmbed', '', folder)
    os.truncate(folder/'model.safetensors', 40)
    with pytest.raises(InputError, match='cut off'): on_kaggle_input('CodeRankEmbed', tmp_path)

@pytest.mark.parametrize('part', ['2_Dense', 'checkpoint-500', 'onnx', 'openvino', '.cache', '.ipynb_checkpoints/CodeRankEmbed'])
def test_parts_beside_a_model_do_not_win_either(tmp_path, part):
    put(tmp_path/'a'/part)
    folder = put(tmp_path/'z/deep/er/final')
    assert on_kaggle_input('CodeRankEmbed', tmp_path) == folder

def test_a_name_does_not_stand_against_the_config(tmp_path):
    put(tmp_path/'CodeRankEmbed', 'all-MiniLM-L6-v2')
    with pytest.raises(InputError, match='is called CodeRankEmbed, but its config.json says bert with 384 .* its card says 768'): on_kaggle_input('CodeRankEmbed', tmp_path)
    right = put(tmp_path/'zz')
    assert on_kaggle_input('CodeRankEmbed', tmp_path) == right
    with pytest.raises(InputError): on_kaggle_input('all-MiniLM-L6-v2', tmp_path), 'and a folder that says it is another model is not taken'

@pytest.mark.parametrize('changes', [dict(n_layer=24), dict(vocab_size=30522), dict(n_embd=1024), dict(model_type='bert'), dict(architectures=['NomicBertForMaskedLM'])])
def test_another_size_is_another_model(tmp_path, changes):
    put(tmp_path/'my-weights-v2', **changes)
    with pytest.raises(InputError, match='architecture and size'): on_kaggle_input('CodeRankEmbed', tmp_path)

def test_the_better_of_two_and_it_is_said(tmp_path):
    a, b = put(tmp_path/'aaa'), put(tmp_path/'bbb')
    found, place = find('CodeRankEmbed', tmp_path)
    assert found == a and f'taken before {short(b)}' in place
    named = put(tmp_path/'zzz/code-rank-embed/transformers/default/1')
    assert find('CodeRankEmbed', tmp_path)[0] == named
    os.truncate(named/'model.safetensors', 50)
    found, place = find('CodeRankEmbed', tmp_path)
    assert found == a and f'{short(named)} was passed over: model.safetensors is cut off' in place
    shutil.rmtree(named)
    small = put(tmp_path/'CodeRankEmbed', n_layer=2)
    assert find('CodeRankEmbed', tmp_path)[0] == a, 'the right size goes before the name'
    for folder in a, b: shutil.rmtree(folder)
    assert find('CodeRankEmbed', tmp_path) == (small, 'kaggle')

def missing_shard(folder):
    weights(folder/'model-00001-of-00002.safetensors')
    names = {t: f'model-0000{i}-of-00002.safetensors' for i,t in ((1, 'a'), (2, 'b'))}
    (folder/'model.safetensors.index.json').write_text(json.dumps(dict(weight_map=names)))

def pointer(folder): (folder/'model.safetensors').write_text('version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 546938168\n')
def pickle(folder): (folder/'pytorch_model.bin').write_bytes(b'x')
def nothing(folder): pass
def broken_index(folder): (folder/'model.safetensors.index.json').write_text('{"weight_map":')

@pytest.mark.parametrize('make,why', [(missing_shard, '00002-of-00002.safetensors is missing'), (pointer, 'Git LFS pointer'), (pickle, 'pickled weights only'),
                                      (nothing, 'no .safetensors file'), (broken_index, 'cut off or broken')])
@pytest.mark.parametrize('mount', ['my-weights-v2', 'CodeRankEmbed'])
def test_half_a_model_is_named_with_its_fault(tmp_path, make, why, mount):
    folder = put(tmp_path/mount, files=())
    make(folder)
    with pytest.raises(NoWeights) as e: find('CodeRankEmbed', tmp_path)
    assert f'kaggle: {folder}: ' in str(e.value) and why in str(e.value)
    with pytest.raises(NoWeights) as e: find_model('CodeRankEmbed', folder)
    assert f'models_dir: {folder}: ' in str(e.value) and why in str(e.value)

def test_shards_that_are_all_there(tmp_path):
    folder = put(tmp_path/'w', files=())
    missing_shard(folder)
    weights(folder/'model-00002-of-00002.safetensors')
    assert on_kaggle_input('CodeRankEmbed', tmp_path) == folder

def test_a_config_json_that_is_no_model(tmp_path):
    for i in range(5):
        (tmp_path/f'app{i}').mkdir()
        (tmp_path/f'app{i}/config.json').write_text(['[]', '{"a": 1}', 'null', '{', '"x"'][i])
    folder = put(tmp_path/'app1/deeper')
    assert find('CodeRankEmbed', tmp_path)[0] == folder

@pytest.mark.parametrize('config', [dict(architectures='NomicBertModel'), dict(n_embd='768'), dict(architectures=[None]), dict(model_type=None), dict(vocab_size=[1])])
def test_odd_configs_raise_nothing_else(tmp_path, config):
    put(tmp_path/'my-weights-v2', **config)
    try: on_kaggle_input('CodeRankEmbed', tmp_path)
    except InputError: pass

def test_bounds(tmp_path, monkeypatch):
    for i in range(30): (tmp_path/f'pictures/{i}').mkdir(parents=True)
    folder = put(tmp_path/'w/a/b')
    monkeypatch.setattr(places, 'WIDEST', 20)
    assert on_kaggle_input('CodeRankEmbed', tmp_path) == folder
    with pytest.raises(InputError, match='pictures has more than 20 entries'): on_kaggle_input('CodeRankLLM', tmp_path)
    monkeypatch.setattr(places, 'WIDEST', 100)
    monkeypatch.setattr(places, 'MOST_FOLDERS', 10)
    with pytest.raises(InputError, match='only 10 folders were searched'): on_kaggle_input('CodeRankEmbed', tmp_path)
    monkeypatch.undo()
    (tmp_path/'w/loop').symlink_to(tmp_path/'w')
    assert on_kaggle_input('CodeRankEmbed', tmp_path) == folder, 'links that go round end'

def test_models_dir_is_the_models_own_folder(tmp_path):
    folder = make_nomic_bert_in(tmp_path/'mine')
    card, found, place = find_model('CodeRankEmbed', folder)
    assert found == folder and place.startswith('models_dir (') and 'known by its config.json' in place
    assert find_model('CodeRankEmbed', tmp_path/'mine/')[1] == folder
    for name in 'CodeRankLLM', 'all-MiniLM-L6-v2':
        with pytest.raises(InputError): in_models_dir(name, CARD[name].hub_id, folder)
    assert find_model('me/mine', folder)[1] == folder, 'a model that is not registered'

def make_nomic_bert_in(folder):
    folder.mkdir()
    return make_nomic_bert(folder)

def test_a_generative_model_and_an_embedder_of_one_size(tmp_path):
    embedder = make_qwen2(tmp_path/'one', inner=32)
    reranker = make_qwen2(tmp_path/'two', inner=32, causal=True, sentence=False)
    for name,right,wrong in ('nomic-embed-code', embedder, reranker), ('CodeRankLLM', reranker, embedder):
        assert find_model(name, right)[1] == right
        with pytest.raises(InputError): in_models_dir(name, CARD[name].hub_id, wrong)

def test_a_hub_cache_as_models_dir(tmp_path):
    folder = hub_cache(tmp_path/'hub', 'nomic-ai/CodeRankEmbed')
    for place in tmp_path/'hub', folder.parents[1], folder: assert find_model('CodeRankEmbed', place)[1] == folder
