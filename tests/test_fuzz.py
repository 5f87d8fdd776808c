"Whatever stands in a file that is read again: it is read, or refused in a sentence. A thousand of each."
import json, os, random
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from coderank_qdrant.command import InputError

pytestmark = pytest.mark.slow
many = settings(max_examples=int(os.environ.get("EXAMPLES", 1000)), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
ODD = [None, True, False, 0, 1, -1, 2**70, 1.5, float('nan'), float('inf'), -1e308, '', 'x', '\ud800', '\x1b[31m', '../../x', [], [None], [1, 2], [[]], ['x'], {}, {'x': None}, {'': []}, 'a' * 300]

def mutated(whole, seed):
    "The bytes of a document in which a value is another, a key is missing, or a few bytes are others."
    chance = random.Random(seed)
    document = json.loads(json.dumps(whole))
    kind = chance.choice(['value'] * 5 + ['key', 'bytes', 'cut', 'other'])
    if kind == 'other': document = chance.choice(ODD)
    if kind in ('value', 'key'):
        holders = [(document, None)]
        for holder,_ in holders:
            for key in holder if isinstance(holder, dict) else range(len(holder)):
                if isinstance(holder[key], (dict, list)): holders.append((holder[key], None))
        holder = chance.choice([holder for holder,_ in holders if holder])
        key = chance.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))
        if kind == 'key': del holder[key]
        else: holder[key] = chance.choice(ODD)
    text = json.dumps(document).encode()
    at = chance.randrange(len(text))
    if kind == 'cut': return text[:at]
    return text[:at] + chance.randbytes(3) + text[at+1:] if kind == 'bytes' else text

def damaged(whole): return st.integers(0, 2**32).map(lambda seed: mutated(whole, seed))

def reads(call):
    "Read, or refused in one line."
    try: call()
    except InputError as error: assert '\n' not in str(error) and len(str(error)) < 2000, error

MODEL = dict(fingerprint='f', dimension=2, max_length=256, precision='fp32', long='window', windows=False, name='m')
ABOUT = dict(format=1, collection='c', header='none', models={'m': MODEL}, navigation='keep', bm25=dict(tokenizer='code', average=256, titles=False, header='path'), quantization=None)
SUMMARY = dict(collection='c', models=[MODEL], total_embeddings=1, outputs={'c_embeddings.jsonl': dict(bytes=3, sha256='x')}, header='none')
LINE = dict(id='c:s:a.md:chunk:0', text='a text', embedding=[.6, .8], metadata=dict(collection='c', source_subdir='s', source='s/a.md', content_type='docs', model='m', windows=1, text_hash='0' * 64, title='A'))

@many
@given(data=damaged(ABOUT))
def test_descriptions_of_collections(data, tmp_path):
    from coderank_qdrant.edge import read_description
    from coderank_qdrant.index import describe_run, why_not_same
    (tmp_path/'shard').mkdir(exist_ok=True)
    (tmp_path/'collection.json').write_bytes(data)
    def read():
        about = read_description(tmp_path)
        if about: why_not_same(about, describe_run(SUMMARY, {'m': MODEL}))
    reads(read)

@many
@given(summary=damaged(SUMMARY), line=damaged(LINE), which=st.booleans())
def test_finished_runs(summary, line, which, tmp_path):
    from coderank_qdrant.finished import check_whole, read_lines, run_files, survey_run
    from coderank_qdrant.index import describe_run, make_points
    (tmp_path/'c_embedding_summary.json').write_bytes(summary if which else json.dumps({**SUMMARY, 'outputs': {}}).encode())
    (tmp_path/'c_embeddings.jsonl').write_bytes((json.dumps(LINE).encode() if which else line) + b'\n')
    def read():
        found, jsonl, cache = run_files(tmp_path)
        models = survey_run(found, jsonl, cache is not None)
        check_whole(found, jsonl)
        list(make_points(read_lines(jsonl), describe_run(found, models)))
    reads(read)

@many
@given(header=damaged({'a.weight': dict(dtype='F32', shape=[2, 3], data_offsets=[0, 24]), '__metadata__': dict(format='pt')}), length=st.none() | st.integers(0, 2**64 - 1))
def test_headers_of_weights(header, length, tmp_path):
    from coderank_qdrant.models import count_weights, shapes_here
    (tmp_path/'config.json').write_text('{"model_type": "bert"}')
    size = len(header) if length is None else length
    (tmp_path/'model.safetensors').write_bytes(size.to_bytes(8, 'little') + header + bytes(24))
    reads(lambda: (shapes_here(tmp_path), count_weights(tmp_path)))

CONFIGS = {'config.json': dict(model_type='bert', hidden_size=32, max_position_embeddings=512, num_hidden_layers=2), 'sentence_bert_config.json': dict(max_seq_length=256, do_lower_case=False),
           'config_sentence_transformers.json': dict(prompts=dict(query='Q: ', document=''), default_prompt_name=None),
           'modules.json': [dict(idx=0, name='0', path='', type='sentence_transformers.models.Transformer'), dict(idx=1, name='1', path='1_Pooling', type='sentence_transformers.models.Pooling')]}

@many
@given(data=st.data(), name=st.sampled_from(sorted(CONFIGS)))
def test_configurations_of_models(data, name, tmp_path):
    from coderank_qdrant.fingerprint import shaping_files
    from coderank_qdrant.models import folder_card
    from coderank_qdrant.weights import config_of
    for file,whole in CONFIGS.items(): (tmp_path/file).write_text(json.dumps(whole))
    (tmp_path/name).write_bytes(data.draw(damaged(CONFIGS[name])))
    def read():
        card = folder_card(tmp_path)
        assert isinstance(card.query_prompt, str) and isinstance(card.document_prompt, str)
        config_of(tmp_path), shaping_files(tmp_path)
    reads(read)

KEPT = {'calibrations.json': {'key': dict(budget=4096, speed=100., memory=dict(c0=1., c1=2., c2=3., margin=0.))}, 'hashes.json': {'key': '0' * 64}}

@many
@given(data=st.data(), name=st.sampled_from(sorted(KEPT)))
def test_what_is_kept_between_runs(data, name, tmp_path, monkeypatch):
    "A file of ours that cannot be read is as good as none."
    from coderank_qdrant import fingerprint
    from coderank_qdrant.calibration import kept_calibration
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    (tmp_path/'coderank_qdrant').mkdir(exist_ok=True)
    (tmp_path/'coderank_qdrant'/name).write_bytes(data.draw(damaged(KEPT[name])))
    found = kept_calibration('key')
    if found: assert found.budget > 0 and found.speed > 0
    (tmp_path/'weights').write_bytes(b'weights')
    monkeypatch.setattr(fingerprint, 'memory_key', lambda file: 'key')
    hash, = fingerprint.remembered_hashes([tmp_path/'weights']).values()
    assert len(hash) == 64

ENTRY = dict(key='k', digest='0' * 64, chunks=2)
STATE = dict(settings=dict(profile='offline'), source='x', folders=['', 'a'], made=[[1, 2]])

@many
@given(line=damaged(['a.md', ENTRY]), told=damaged(dict(made_by='coderank_chunk', documents={'a.md': ENTRY})), state=damaged(STATE))
def test_what_chunking_and_syncing_remember(line, told, state, tmp_path):
    from coderank_qdrant.sync import Places, read_state, up_to_date
    from coderank_qdrant.tree import foreign_files, made_documents, noted
    (tmp_path/'done.jsonl').write_bytes(line + b'\n')
    (tmp_path/'told.json').write_bytes(told)
    for documents in noted(tmp_path/'done.jsonl'), made_documents(tmp_path/'told.json'):
        foreign_files(tmp_path, documents)
        for entry in documents.values(): assert isinstance(entry['key'], str) and isinstance(entry['digest'], str) and entry['chunks'] >= 0
    (tmp_path/'src').mkdir(exist_ok=True)
    places = Places(tmp_path/'src', tmp_path)
    places.state.write_bytes(state)
    assert up_to_date(places, STATE['settings'], read_state(places)) in (True, False)

EVENTS = [dict(event='start', time=1., collection='c', out='out', state='new', devices=[dict(worker='cpu', device='cpu', name='CPU', total=None)]),
          dict(event='batch', time=2., worker='cpu', model='m', device='cpu', rows=2, length=8, batch_tokens=16, took=.1, done=2, total=4, new=2, tokens=16, all_tokens=32, seconds=1., counters=dict(cached=0, oom=0)),
          dict(event='end', time=3., state='Done', text='Done')]

@many
@given(data=st.data(), which=st.sampled_from(range(3)))
def test_reports_of_past_runs(data, which, tmp_path):
    from coderank_qdrant.report import run_report
    lines = [json.dumps(event).encode() for event in EVENTS]
    lines[which] = data.draw(damaged(EVENTS[which])).replace(b'\n', b' ')
    (tmp_path/'metrics.jsonl').write_bytes(b'\n'.join(lines) + b'\n')
    (tmp_path/'c_embedding_summary.json').write_bytes(data.draw(damaged(SUMMARY)))
    reads(lambda: run_report(tmp_path))

@many
@given(line=damaged(dict(qid='1', query='a question', judgments={'0' * 64: 1})))
def test_questions(line, tmp_path):
    from coderank_qdrant.judged import read_queries
    (tmp_path/'q.jsonl').write_bytes(line + b'\n')
    reads(lambda: read_queries(tmp_path/'q.jsonl'))
