"A run may die at any moment; continued, it gives the bytes of a run that did not."
import random, signal, time
import numpy as np, pytest
from conftest import also, read_jsonl, run_cli, start_cli, summary_of, write_file
from coderank_qdrant.cache import VectorCache
from coderank_qdrant.events import read_metrics
from coderank_qdrant.pipeline import embed_corpus

def batches(out):
    f = out/'metrics.jsonl'
    return [e for e in read_metrics(f)[0] if e.name == 'batch'] if f.exists() else []

def committed(out):
    "Rows that are in the cache."
    if not (out/'vectors.sqlite').exists(): return 0
    with VectorCache(out/'vectors.sqlite') as cache: return cache.read('select count(*) from vectors')[0][0]

def killed_and_continued(args, out, moments, name):
    "Kill the command once at each moment, then let it finish; `moments` yields functions that wait for it."
    there, plans = {}, lambda: [e for e in read_metrics(out/'metrics.jsonl')[0] if e.name == 'plan'] if (out/'metrics.jsonl').exists() else []
    for wait in moments:
        p = start_cli(*args, '--out', out)
        wait(p)
        p.kill()
        p.communicate()
        there[len(plans())] = committed(out)
    p = run_cli(*args, '--out', out)
    assert p.returncode == 0, p.stderr
    rows = [e['rows'][0] for e in plans()]
    for n,done in there.items(): assert rows[n] == committed(out) - done, 'a row that was committed was planned again'
    return [d for d in there.values() if 0 < d < committed(out)]

def after_batches(out, n):
    "Wait until the run has reported `n` batches more than before."
    def wait(p):
        first = len(batches(out))
        while p.poll() is None and len(batches(out)) < first + n: time.sleep(.002)
    return wait

def after_seconds(s):
    def wait(p):
        end = time.time() + s
        while p.poll() is None and time.time() < end: time.sleep(.01)
    return wait

def assert_undisturbed(ref, out, name):
    assert (out/f'{name}_embeddings.jsonl').read_bytes() == (ref/f'{name}_embeddings.jsonl').read_bytes()
    assert sum(e['rows'] for e in batches(out)) <= sum(e['rows'] for e in batches(ref)), 'a batch that was told was computed again'
    assert not list(out.glob('.*.part'))

def test_killed_between_batches(subset, tmp_path):
    args, ref, out = (subset, '--profile', 'offline', '--limit', 60), tmp_path/'ref', tmp_path/'out'
    assert run_cli(*args, '--out', ref).returncode == 0
    half_way = killed_and_continued(args, out, [after_batches(out, n) for n in (1, 4)], 'subset')
    assert_undisturbed(ref, out, 'subset')
    assert half_way, 'no kill came in the middle of the work'
    starts = [e['state'] for e in read_metrics(out/'metrics.jsonl')[0] if e.name == 'start']
    assert starts == ['new', 'continued', 'continued']

@pytest.mark.slow
def test_killed_at_twenty_random_moments(subset, tmp_path):
    args, ref, out = (subset, '--profile', 'offline'), tmp_path/'ref', tmp_path/'out'
    start = time.time()
    assert run_cli(*args, '--out', ref).returncode == 0
    rng, took = random.Random(2), time.time() - start
    killed_and_continued(args, out, [after_seconds(rng.uniform(.5, max(took / 3, 16))) for _ in range(20)], 'subset')
    assert_undisturbed(ref, out, 'subset')

@pytest.mark.parametrize('number,code', [(signal.SIGINT, 130), (signal.SIGTERM, 143), also(signal.SIGHUP, 129)])
def test_interrupted_is_saved(number, code, subset, tiny, faulty, tmp_path):
    out = tmp_path/'out'
    p = start_cli(subset, '--profile', tiny, '--out', out, env=faulty('slow:over0'))
    after_batches(out, 3)(p)
    p.send_signal(number)
    asked = time.time()
    _, err = p.communicate(timeout=240)
    assert p.returncode == code and 'goes on from there' in err and 'Traceback' not in err
    assert time.time() - asked < 10 and read_metrics(out/'metrics.jsonl')[0][-1]['state'] == 'Interrupted'
    assert not (out/'subset_embeddings.jsonl').exists()
    if code != 130: return
    assert run_cli(subset, '--profile', tiny, '--out', out).returncode == 0
    assert len(read_jsonl(out/'subset_embeddings.jsonl')) == 400

def test_again_changed_and_rebuilt(tiny, tmp_path):
    root, out = tmp_path/'c', tmp_path/'out'
    texts = [f'text number {i} ' * (i % 7 * 60 + 1) for i in range(60)]
    write_file(root, 'docs/a_chunks.json', texts)
    file = out/'c_embeddings.jsonl'
    def embed(): return embed_corpus(root, out, profile=str(tiny)).summary
    assert embed()['computed'] == 60
    first = file.read_bytes()
    assert embed()['computed'] == 0 and file.read_bytes() == first
    file.unlink()
    assert embed()['computed'] == 0 and file.read_bytes() == first
    write_file(root, 'docs/a_chunks.json', [*texts[:30], 'a new text', *texts[31:]])
    assert embed()['computed'] == 1
    write_file(root, 'docs/a_chunks.json', texts)
    assert embed()['computed'] == 0 and file.read_bytes() == first

def test_a_changed_corpus_after_an_interruption(subset, tiny, tmp_path):
    "The saved list no longer fits: what is done stays done, and the rest is cut anew."
    import shutil
    root, out = tmp_path/'subset', tmp_path/'out'
    shutil.copytree(subset, root)
    p = start_cli(root, '--profile', tiny, '--out', out)
    after_batches(out, 5)(p)
    p.kill(); p.communicate()
    done = sum(e['rows'] for e in batches(out))
    write_file(root, 'part0/doc0_chunks.json', ['something else entirely', 'and more'])
    assert run_cli(root, '--profile', tiny, '--out', out).returncode == 0
    s = summary_of(out, 'subset')
    assert not s['models'][0]['resumed'] and s['account']['found'] == s['account']['embedded'] == 400 - 40 + 2
    first, second = [e['rows'][0] for e in read_metrics(out/'metrics.jsonl')[0] if e.name == 'plan']
    assert 0 < done and second <= first - done + 2, 'rows that were committed are computed again'

def test_two_runs_at_once_are_told_apart(subset, tiny, tmp_path):
    out = tmp_path/'out'
    p = start_cli(subset, '--profile', tiny, '--out', out)
    after_batches(out, 1)(p)
    second = run_cli(subset, '--profile', tiny, '--out', out)
    p.communicate(timeout=120)
    assert second.returncode in (0, 2)
    assert second.returncode == 0 or 'is in use by process' in second.stderr
    assert len(read_jsonl(out/'subset_embeddings.jsonl')) == 400

def flip(cache, vector):
    "Flip one bit of a vector, where it lies in the file."
    data = bytearray(cache.read_bytes())
    at = data.index(vector)
    data[at + 3] ^= 0x40  # in the exponent of the first number
    cache.write_bytes(data)

def test_a_flipped_bit_in_the_cache_is_found_and_computed_again(tiny, tmp_path):
    root, out = tmp_path/'c', tmp_path/'out'
    write_file(root, 'docs/a_chunks.json', [f'text number {i}' for i in range(40)])
    embed_corpus(root, out, profile=str(tiny))
    file = out/'c_embeddings.jsonl'
    first = read_jsonl(file)
    with VectorCache(out/'vectors.sqlite') as cache: vectors = cache.read('select vector from vectors order by rowid')
    for vector, in vectors[3], vectors[20]: flip(out/'vectors.sqlite', vector)
    run = embed_corpus(root, out, profile=str(tiny))
    model, = run.summary['models']
    assert run.summary['computed'] == model['damaged'] == 2
    for a,b in zip(first, read_jsonl(file), strict=True):  # in a batch of another shape the last bits may differ
        assert (a['id'], a['text'], a['metadata']) == (b['id'], b['text'], b['metadata']) and np.allclose(a['embedding'], b['embedding'], atol=1e-6)
    assert '2 vectors of tiny-bert in the cache are damaged' in str(run.plan)
    assert embed_corpus(root, out, profile=str(tiny)).summary['computed'] == 0

@pytest.mark.parametrize('damage', ['none', 'bit', 'cut'])
def test_what_was_tokenised_is_not_tokenised_again(damage, subset, tiny, tmp_path, monkeypatch):
    "A run was stopped before its first batch; the next one takes the token ids over, as far as they are whole."
    from coderank_qdrant import work
    ref, out = tmp_path/'ref', tmp_path/'out'
    embed_corpus(subset, ref, profile=str(tiny), devices='cpu')
    monkeypatch.setattr(work, 'TOKENS_HELD', 0)
    monkeypatch.setattr(work, 'AT_ONCE', 100)
    embed_corpus(subset, out, profile=str(tiny), devices='cpu', dry_run=True)
    assert not out.exists() or not list(out.glob(f'*{work.IDS}')), 'a dry run keeps nothing'
    assert embed_corpus(subset, out, profile=str(tiny), devices='cpu', stop_after=1e-9).state == 'stopped'
    file, = out.glob(f'*{work.IDS}')
    content = bytearray(file.read_bytes())
    if damage == 'bit': content[len(content) // 2] ^= 1
    if damage == 'cut': del content[len(content) // 2:]
    file.write_bytes(content)

    tokenised, tokenize = [], work.tokenize
    def counted(tokenizer, texts):
        tokenised.extend(texts)
        return tokenize(tokenizer, texts)
    monkeypatch.setattr(work, 'tokenize', counted)
    run = embed_corpus(subset, out, profile=str(tiny), devices='cpu')
    distinct = run.summary['distinct_texts']
    assert len(tokenised) == 0 if damage == 'none' else 100 <= len(tokenised) <= distinct - 100
    assert_undisturbed(ref, out, 'subset')
    assert run.plan.models[0].resumed and not list(out.glob(f'*{work.IDS}'))

def test_token_ids_are_kept_under_a_model_that_is_known(tmp_path, monkeypatch):
    "One without weights has no fingerprint yet: its ids would be taken for those of any other such model."
    from coderank_qdrant import work
    from coderank_qdrant.chunks import Chunk, text_hash
    from coderank_qdrant.devices import assumed_devices
    from coderank_qdrant.model_plan import plan_model
    from coderank_qdrant.routing import route
    monkeypatch.setattr(work, 'TOKENS_HELD', 0)
    chunks = [Chunk('a:b:c:chunk:0', 'a text', dict(text_hash=text_hash('a text'), source='docs/a.md'))]
    with VectorCache(tmp_path/'vectors.sqlite') as cache:
        assumed = plan_model(route('nomic', 'docs', assume=True), chunks, ['docs'], cache, assumed_devices('T4x2'))
        assert not assumed.fingerprint and len(assumed.work.rows) == 1 and not list(tmp_path.glob(f'*{work.IDS}'))
        known = plan_model(route('offline', 'docs'), chunks, ['docs'], cache)
        assert [path.name for path in tmp_path.glob(f'*{work.IDS}')] == [f'{known.fingerprint[:16]}{work.IDS}']

def test_a_folder_that_is_moved_away_ends_the_run(tiny, subset, tmp_path, faulty):
    "What is written into a file that has no name any more is lost, and nobody would hear of it before the end."
    out = tmp_path/'out'
    p = start_cli(subset, '--out', out, '--profile', tiny, '--devices', 'cpu', env=faulty('slow:over0'))
    until = time.time() + 240
    while not (out/'metrics.jsonl').exists() or b'"event":"batch"' not in (out/'metrics.jsonl').read_bytes(): assert p.poll() is None and time.time() < until
    out.rename(tmp_path/'moved')
    said = p.communicate(timeout=240)[1]
    assert p.returncode == 2 and 'out/vectors.sqlite is no longer there' in said and 'is saved in' not in said and 'Traceback' not in said, said
    (tmp_path/'moved').rename(out)
    kept, told = committed(out), len(batches(out))
    assert run_cli(subset, '--out', out, '--profile', tiny, '--devices', 'cpu').returncode == 0
    assert kept and kept + sum(e.facts['rows'] for e in batches(out)[told:]) == committed(out)
