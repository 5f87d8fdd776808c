"Checkpoints in the layouts of the mission's models: loaded natively, every weight accounted for, routed and fallen back from."
import os, shutil
import numpy as np
import pytest, torch
from conftest import also, make_bert, make_modernbert, make_nomic_bert, make_qwen2, make_qwen3, read_jsonl, run_cli, summary_of, write_file
from coderank_qdrant.command import InputError
from coderank_qdrant.encoder import load_encoder
from coderank_qdrant.models import MODELS, find_model, folder_card, frame, load_tokenizer, tokenize, with_max_length

@pytest.fixture(scope='module')
def models(missions_models): return missions_models

@pytest.fixture(scope='module')
def mixed(tmp_path_factory):
    root = tmp_path_factory.mktemp('c')/'mixed'
    write_file(root, 'src/app_chunks.json', ['import os', 'def f(x): return x', 'x = 1'], 'app.py')
    write_file(root, 'docs/guide_chunks.json', ['Read this first.', 'Then read that.'], 'guide.md')
    write_file(root, 'etc/licence_chunks.json', ['Do as you like.'], 'LICENSE')
    return root

def native(folder, cls, pool, texts, **config):
    "The class loaded directly, one text at a time."
    cfg = cls.config_class(**config) if config else cls.config_class.from_pretrained(folder)
    m, tok = cls.from_pretrained(folder, config=cfg).eval(), load_tokenizer(folder)
    with torch.no_grad(): out = [m(**tok(t, return_tensors='pt', return_token_type_ids=False)).last_hidden_state[0, pool] for t in texts]
    return torch.nn.functional.normalize(torch.stack(out), dim=-1).numpy()

def lines(out): return {l['id'].split(':', 1)[1]: l for l in read_jsonl(out/'mixed_embeddings.jsonl')}

@pytest.mark.parametrize('layers', [2, also(12)])
def test_coderankembed_layout_through_the_command(mixed, tmp_path, layers):
    from transformers import NomicBertModel
    folder = make_nomic_bert(tmp_path/'models/CodeRankEmbed', layers=layers, inner=256 if layers == 2 else 3072)
    p = run_cli(mixed, '--out', tmp_path/'out', '--profile', 'light', '--models_dir', tmp_path/'models', '--precision', 'fp32')
    assert p.returncode == 0 and 'code from a model folder' not in p.stderr, p.stderr
    got = list(lines(tmp_path/'out').values())
    ref = native(folder, NomicBertModel, 0, [l['text'] for l in got], hidden_size=768, num_hidden_layers=layers, num_attention_heads=12, intermediate_size=256 if layers == 2 else 3072)
    assert min((np.array([l['embedding'] for l in got]) * ref).sum(1)) > .99999

@pytest.mark.parametrize('name', ['nomic-embed-code', 'CodeRankLLM'])
def test_qwen2_layouts(models, name):
    from transformers import Qwen2Model
    card, folder, place = find_model(name, models)
    enc, tok, texts = load_encoder(card, folder), load_tokenizer(folder), ['def f(x): return x', 'a longer text about nothing in particular', 'x']
    pre, post = frame(tok)
    v = enc.embed([[*pre, *i, *post] for i in tokenize(tok, texts)])
    assert place == 'models_dir' and v.shape == (3, 3584) and not any('lm_head' in n for n,_ in enc.body.named_parameters())
    assert (v * native(folder, Qwen2Model, -1, texts)).sum(1).min() > .99999

@pytest.fixture(scope='module')
def modern(tmp_path_factory):
    "A models_dir with the models of the profile `modern`, of the true width."
    d = tmp_path_factory.mktemp('modern')
    make_qwen3(d/'Qwen3-Embedding-0.6B')
    make_modernbert(d/'gte-modernbert-base')
    return d

@pytest.mark.parametrize('name,kind,pool,settings', [('Qwen3-Embedding-0.6B', 'Qwen3Model', -1, dict(rope_theta=1e6)), ('gte-modernbert-base', 'ModernBertModel', 0, {})])
def test_layouts_of_today(modern, name, kind, pool, settings):
    import transformers
    card, folder, _ = find_model(name, modern)
    enc, tok = load_encoder(card, folder), load_tokenizer(folder)
    texts = ['def f(x): return x', 'a longer text about nothing in particular ' * 30, 'x']  # the second is longer than a local window
    pre, post = frame(tok)
    v = enc.embed([[*pre, *i, *post] for i in tokenize(tok, texts)])
    cls = getattr(transformers, kind)
    model = cls.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad(): states = [model(input_ids=torch.tensor([[*pre, *i.tolist(), *post]])).last_hidden_state[0, pool] for i in tokenize(tok, texts)]
    ref = torch.nn.functional.normalize(torch.stack(states), dim=-1).numpy()
    assert v.shape == (3, card.dim) and (v * ref).sum(1).min() > .99999
    assert model.config.to_dict().get('rope_parameters') == enc.body.config.to_dict().get('rope_parameters')
    if name.startswith('Qwen3'): assert enc.body.config.rope_parameters['rope_theta'] == 1e6 and card.query_prompt == folder_card(folder).query_prompt
    else: assert {160000.0, 10000.0} == {p['rope_theta'] for p in enc.body.config.rope_parameters.values()}

def test_shorter_vectors_through_the_command_and_in_search(modern, mixed, tmp_path):
    pytest.importorskip('qdrant_edge')
    args = [mixed, '--out', tmp_path/'out', '--profile', 'modern', '--models_dir', modern]
    whole = run_cli(*args)
    assert whole.returncode == 0, whole.stderr
    full = {i: np.array(l['embedding']) for i,l in lines(tmp_path/'out').items()}
    p = run_cli(*args, '--dim', '256')
    assert p.returncode == 0, p.stderr
    s = summary_of(tmp_path/'out', 'mixed')
    assert s['vector_dimension'] == 256 and s['computed'] == 6, 'another dimension is another space'
    for i,l in lines(tmp_path/'out').items():
        cut = full[i][:256] / np.linalg.norm(full[i][:256])
        assert len(l['embedding']) == 256 and np.dot(l['embedding'], cut) > .99999
    made = run_cli(tmp_path/'out', '--location', tmp_path/'index', command='coderank_index', module='index')
    assert made.returncode == 0, made.stderr
    asked = run_cli('Read this first.', '--location', tmp_path/'index', '--mode', 'dense', '--models_dir', modern, command='coderank_search', module='search')
    assert asked.returncode == 0 and 'docs' in asked.stdout, asked.stderr

def test_vectors_that_may_not_be_cut(modern, mixed, tmp_path):
    for name,dim,says in ('gte-modernbert-base', 256, 'not trained to be cut'), ('Qwen3-Embedding-0.6B', 2048, '32 to 1024'):
        p = run_cli(mixed, '--out', tmp_path/'out', '--profile', name, '--models_dir', modern, '--dim', dim)
        assert p.returncode == 2 and says in p.stderr and 'Traceback' not in p.stderr

def test_the_missions_profile(models, mixed, tmp_path):
    p = run_cli(mixed, '--out', tmp_path/'out', '--models_dir', models)
    assert p.returncode == 0, p.stderr
    got, s = lines(tmp_path/'out'), summary_of(tmp_path/'out', 'mixed')
    by = {(l['metadata']['content_type'], l['metadata']['model'], len(l['embedding'])) for l in got.values()}
    assert by == {('code', 'CodeRankEmbed', 768), ('docs', 'CodeRankLLM', 3584), ('other', 'nomic-embed-code', 3584)}
    assert s['vector_dimension'] == {'CodeRankEmbed': 768, 'CodeRankLLM': 3584, 'nomic-embed-code': 3584} and s['total_embeddings'] == 6
    assert all(m['fallback_from'] is None and m['weights'] == 'models_dir' for m in s['models'])

def test_docs_fall_back_whole(models, mixed, tmp_path):
    for n in 'CodeRankEmbed', 'nomic-embed-code': shutil.copytree(models/n, tmp_path/'models'/n)
    p = run_cli(mixed, '--out', tmp_path/'out', '--models_dir', tmp_path/'models')
    assert p.returncode == 0 and 'nomic-embed-code stands in for CodeRankLLM in docs' in p.stderr, p.stderr
    s = summary_of(tmp_path/'out', 'mixed')
    assert {l['metadata']['model'] for l in lines(tmp_path/'out').values() if l['metadata']['content_type'] == 'docs'} == {'nomic-embed-code'}
    assert {m['name']: m['fallback_from'] for m in s['models']} == {'CodeRankEmbed': None, 'nomic-embed-code': 'CodeRankLLM'}

def test_nothing_left_to_fall_back_to(models, mixed, tmp_path):
    shutil.copytree(models/'CodeRankEmbed', tmp_path/'models/CodeRankEmbed')
    p = run_cli(mixed, '--out', tmp_path/'out', '--models_dir', tmp_path/'models')
    assert p.returncode == 2 and all(w in p.stderr for w in ('CodeRankLLM', 'nomic-embed-code', 'models_dir:', 'hub cache:', '--profile offline')), p.stderr

def test_old_settings_that_the_native_class_ignores_are_an_error(tmp_path):
    for change,says in ({'prenorm': True}, 'prenorm'), ({'rotary_emb_fraction': .5}, 'rotary_emb_fraction'), ({'num_hidden_layers': 12}, 'contradicts'):
        folder = make_nomic_bert(tmp_path/says/'CodeRankEmbed', **change)
        with pytest.raises(InputError, match=says): load_encoder(MODELS['CodeRankEmbed'], folder)

def test_another_rotary_base_changes_the_vectors(tmp_path):
    rows = [list(range(5, 60))]
    a, b = [load_encoder(MODELS['CodeRankEmbed'], make_nomic_bert(tmp_path/str(base), rotary_emb_base=base)).embed(rows) for base in (1000, 10)]
    assert (a * b).sum() < .9999

@pytest.mark.parametrize('harm', ['missing', 'unexpected', 'truncated', 'shape', 'no tokenizer'])
def test_damaged_weights_are_one_clear_error(tmp_path, mixed, harm):
    from safetensors.torch import load_file, save_file
    folder = make_bert(tmp_path/'model')
    file = folder/'model.safetensors'
    weights = load_file(file)
    if harm == 'missing': weights.pop('encoder.layer.1.output.dense.weight')
    if harm == 'unexpected': weights['encoder.layer.2.output.dense.weight'] = torch.zeros(2, 2)
    if harm == 'shape': weights['encoder.layer.1.output.dense.weight'] = torch.zeros(3, 3)
    save_file(weights, file, metadata={'format': 'pt'})
    if harm == 'truncated': file.write_bytes(file.read_bytes()[:5000])
    if harm == 'no tokenizer': [f.unlink() for f in folder.glob('*token*')]; (folder/'vocab.txt').unlink()
    p = run_cli(mixed, '--out', tmp_path/'out', '--profile', folder)
    assert p.returncode == 2 and len([l for l in p.stderr.splitlines() if l.startswith('coderank_embed:')]) == 1 and 'Traceback' not in p.stderr, p.stderr
    assert not (tmp_path/'out/mixed_embeddings.jsonl').exists()

def test_the_query_prompt_is_for_queries_only(models, mixed, tmp_path):
    "A document's rows are the special tokens and its own, nothing in front."
    card, folder, _ = find_model('CodeRankEmbed', models)
    assert card.query_prompt == 'Represent this query for searching relevant code: ' and card.document_prompt == ''
    assert frame(load_tokenizer(folder), card.document_prompt) == ([101], [102])

def small_qwen2(folder):
    "A Qwen2 in nomic-embed-code's layout, small enough to be loaded three times."
    return make_qwen2(folder, hidden=448)

def test_eight_bits_give_nearly_the_same_vectors(mixed, tmp_path):
    folder = small_qwen2(tmp_path/'qwen')
    for precision in 'fp32', 'int8':
        p = run_cli(mixed, '--out', tmp_path/precision, '--profile', folder, '--precision', precision, '--devices', 'cpu')
        assert p.returncode == 0, p.stderr
    cosines = [np.dot(a['embedding'], lines(tmp_path/'int8')[k]['embedding']) for k,a in lines(tmp_path/'fp32').items()]
    assert .98 < min(cosines) and max(cosines) < 1
    a, b = (summary_of(tmp_path/p, 'mixed')['models'][0] for p in ('fp32', 'int8'))
    assert a['fingerprint'] != b['fingerprint'] and 'in int8' in b['placement']

@pytest.fixture(scope='module')
def deep_qwen2(tmp_path_factory):
    "Eight layers with weights of the scale that trained ones have (standard deviation 1/sqrt(inputs)) and uneven norms."
    from transformers import Qwen2Model
    folder = make_qwen2(tmp_path_factory.mktemp('deep')/'qwen', hidden=448, layers=8, inner=1024)
    body = Qwen2Model.from_pretrained(folder)
    torch.manual_seed(1)
    for name,weight in body.named_parameters():
        if 'norm' in name: weight.data = torch.exp(.5 * torch.randn_like(weight))
        elif weight.ndim == 2 and 'embed' not in name: weight.data = torch.randn_like(weight) / weight.shape[1]**.5
    body.save_pretrained(folder, max_shard_size='10MB')
    return folder

@pytest.mark.parametrize('precision,table,least', [('fp32', True, .99999), ('fp32', False, .99999), ('fp16', False, .99999), ('bf16', False, .999), ('int8', True, .9999), ('int8', False, .9999)])
def test_a_row_has_the_same_vector_alone_and_in_a_batch(deep_qwen2, precision, table, least):
    card = with_max_length(folder_card(deep_qwen2), deep_qwen2, 512)
    enc = load_encoder(card, deep_qwen2, 'cpu', precision, table)
    rng = np.random.default_rng(0)
    rows = [rng.integers(5, 1000, n) for n in (240, 230, 220, 20)]
    together, alone = enc.embed(rows), np.concatenate([enc.embed([r]) for r in rows])
    assert (together * alone).sum(1).min() > least
    exact = load_encoder(card, deep_qwen2).embed(rows)
    near = dict(fp32=.999999, fp16=.9999, bf16=.98, int8=.995)[precision]
    assert (together * exact).sum(1).min() > near
    if precision == 'int8': assert (together * exact).sum(1).max() < .9999999, 'the weights were rounded'
    assert ('embed_tokens' in ' '.join(n for n,_ in enc.body.named_parameters())) == table

@pytest.mark.parametrize('precision,table', [('bf16', True), ('bf16', False), ('int8', True)])
def test_computing_in_32_bits_for_a_moment_changes_nothing_afterwards(deep_qwen2, precision, table):
    from coderank_qdrant.encoder import in_32_bits
    card = with_max_length(folder_card(deep_qwen2), deep_qwen2, 512)
    enc, rows = load_encoder(card, deep_qwen2, 'cpu', precision, table), [np.arange(5, 300)]
    before = enc.embed(rows)
    with in_32_bits(enc): inside = enc.embed(rows)
    assert np.array_equal(enc.embed(rows), before)
    if precision == 'bf16': assert (inside * load_encoder(card, deep_qwen2).embed(rows)).sum() > .999 and not np.array_equal(inside, before)

@pytest.mark.parametrize('args,says', [(['--devices', 'cuda:3'], 'no device cuda:3'), (['--devices', 'cpu,cuda:0'], 'cuda:0'), (['--precision', 'fp16', '--devices', 'cpu'], 'fp32 or bf16'),
                                       (['--assume', 'T4x2'], 'add --dry_run'), (['--assume', 'H9000', '--dry_run'], 'Known: T4')])
def test_devices_that_are_not_there(args, says, mixed, tiny, tmp_path):
    p = run_cli(mixed, '--out', tmp_path/'out', '--profile', tiny, *args)
    assert p.returncode == 2 and says in p.stderr and 'Traceback' not in p.stderr, p.stderr
    assert not (tmp_path/'out').exists()

def test_a_failed_load_leaves_the_cache_alone(mixed, tiny, tmp_path):
    assert run_cli(mixed, '--out', tmp_path/'out', '--profile', tiny).returncode == 0
    before = (tmp_path/'out/vectors.sqlite').read_bytes(), (tmp_path/'out/mixed_embeddings.jsonl').read_bytes()
    (small := small_qwen2(tmp_path/'qwen'))/'config.json'
    (small/'config.json').write_text((small/'config.json').read_text().replace('"num_hidden_layers": 1', '"num_hidden_layers": 2'))
    for bad in small, tmp_path: assert run_cli(mixed, '--out', tmp_path/'out', '--profile', bad).returncode == 2
    assert run_cli(mixed, '--out', tmp_path/'out', '--profile', tiny).returncode == 0
    assert (tmp_path/'out/mixed_embeddings.jsonl').read_bytes() == before[1]

def test_another_architecture_under_the_right_name(mixed, tmp_path):
    make_bert(tmp_path/'models/CodeRankEmbed')
    p = run_cli(mixed, '--out', tmp_path/'out', '--profile', 'light', '--models_dir', tmp_path/'models')
    assert p.returncode == 2 and 'its card says 768' in p.stderr, p.stderr

def test_a_hub_that_never_answers(mixed, tmp_path):
    import socket, time
    with socket.socket() as deaf:
        deaf.bind(('127.0.0.1', 0))
        deaf.listen()
        env = {**os.environ, 'HF_ENDPOINT': f'http://127.0.0.1:{deaf.getsockname()[1]}', 'HF_HOME': str(tmp_path/'hub')}
        start = time.time()
        p = run_cli(mixed, '--out', tmp_path/'out', '--profile', 'light', env=env)
    assert p.returncode == 2 and 'hub: nomic-ai/CodeRankEmbed cannot be fetched' in p.stderr and 'Traceback' not in p.stderr, p.stderr
    assert time.time() - start < 120

def test_the_plan_for_two_t4s_needs_no_weights_and_no_gpu(texts, tmp_path):
    write_file(tmp_path/'in', 'docs/a_chunks.json', texts[:50], 'a.md')
    p = run_cli(tmp_path/'in', '--out', tmp_path/'out', '--dry_run', '--assume', 'T4x2', env={**os.environ, 'HF_HUB_OFFLINE': '1'})
    assert p.returncode == 0, p.stderr
    for said in ('Plan for CodeRankEmbed', 'Plan for CodeRankLLM', 'Plan for nomic-embed-code', 'a copy on each of cuda:0, cuda:1 in fp16, 12.2 GiB, token embeddings in host memory', 'a copy on each of cuda:0, cuda:1 in fp16, 0.3 GiB',
                 'CodeRankLLM: A copy each in fp16: 13.2 GiB of weights and 1.2 GiB to work in, 14.3 GiB can be had.', 'its weights are not here', 'within a session'): assert said in p.stdout, p.stdout
    assert not (tmp_path/'out').exists()

def test_a_dry_run_embeds_a_little_and_writes_nothing(mixed, models, tmp_path):
    p = run_cli(mixed, '--out', tmp_path/'out', '--models_dir', models, '--dry_run')
    assert p.returncode == 0 and 'Dry run: 6 of 6 chunks of 3 subdirectories embedded' in p.stderr, p.stderr
    assert not (tmp_path/'out').exists()
