"Keys and passwords in texts: found in every form, said without being repeated, and not found where somebody shows how."
import base64, json, random, string
import pytest
from hypothesis import given, settings, strategies as st
from conftest import summary_of, write_file
from coderank_qdrant.chunking import coderank_chunk
from coderank_qdrant.command import run_command
from coderank_qdrant.content import SECRET_FORMS, find_secrets
from coderank_qdrant.corpus import read_corpus, secret_note
from coderank_qdrant.pipeline import coderank_embed

WORDS, HEX = string.ascii_letters + string.digits, '0123456789abcdef'
WEB = WORDS + '-_'

def web_token(some):
    parts = dict(alg='HS256', typ='JWT'), dict(access='m', exp=1767225600, kid=some('abcdefgh', 12))
    head, body = (base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip('=') for part in parts)
    return f'{head}.{body}.{some(WEB, 43)}'

def pem(some):
    lines = '\n'.join(some(WORDS + '+/', 64) for _ in range(12))
    return f'-----BEGIN RSA PRIVATE KEY-----\n{lines}\n-----END RSA PRIVATE KEY-----'

MADE = {
    'AWS access key': [lambda some: 'AKIA' + some('ABCDEFGHIJKLMNOPQRSTUVWXYZ234567', 16)],
    'GitHub token': [lambda some: 'ghp_' + some(WORDS, 36), lambda some: 'ghs_' + some(WORDS, 36), lambda some: f'github_pat_{some(WORDS, 22)}_{some(WORDS, 59)}'],
    'Stripe key': [lambda some: 'sk_live_' + some(WORDS, 24), lambda some: 'rk_live_' + some(WORDS, 99)],
    'npm token': [lambda some: 'npm_' + some(WORDS, 36)],
    'Hugging Face token': [lambda some: 'hf_' + some(string.ascii_letters, 34)],
    'JSON web token': [web_token],
    'OpenAI key': [lambda some: f'sk-{some(WORDS, 20)}T3BlbkFJ{some(WORDS, 20)}', lambda some: f'sk-proj-{some(WEB, 74)}T3BlbkFJ{some(WEB, 74)}'],
    'PyPI token': [lambda some: f'pypi-AgEIcHlwaS5vcmcCJ{some(WEB, 150)}'],
    'Azure storage key': [lambda some: f'AccountName=a;AccountKey={some(WORDS + "+/", 86)}==;EndpointSuffix=core'],
    'private key': [pem],
    'Google API key': [lambda some: 'AIzaSy' + some(WEB, 32) + some(WORDS, 1)],
    'Slack token': [lambda some: f'xoxb-{some(string.digits, 12)}-{some(string.digits, 13)}-{some(WORDS, 24)}', lambda some: f'xoxp-{some(string.digits, 11)}-{some(string.digits, 11)}-{some(string.digits, 12)}-{some(HEX, 32)}'],
    'password in an address': [lambda some: f'postgresql://svc:{some(WORDS, 19)}7@db.internal:5432/main', lambda some: f'https://{some("abc", 4)}:{some(WEB, 23)}7@registry.corp.net/x'],
}
PLACES = 'key = "{}"\n', 'export KEY={}\n', '- a list with `{}` in it\n', '{}', 'KEY: {} # of production\n', '"source": ["a line\\n{}\\n"]', '<a href="{}">'

def some(rng): return lambda alphabet, n: ''.join(rng.choices(alphabet, k=n))

def test_every_kind_is_made_here(): assert set(MADE) == {form.kind for *_,forms in SECRET_FORMS for form in forms}

@pytest.mark.parametrize('kind', MADE)
def test_keys_are_found_wherever_they_stand(kind):
    "One in a hundred looks so little like chance that it may pass for an example."
    rng, missed, wrong = random.Random(kind), 0, []
    for i in range(400):
        made, place = rng.choice(MADE[kind])(some(rng)), rng.choice(PLACES)
        if '\\n' in place: made = made.replace('\n', '\\n')  # as JSON writes it
        found = list(find_secrets('# Settings\n\n' + place.format(made) + ' and more\n' * (i % 3)))
        missed += not found
        wrong += [secret for secret in found if (secret.kind, secret.line) != (kind, 3)]
    assert missed <= 8 and not wrong

HARMLESS = '''YOUR_API_KEY  api_key="xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"  token: <token>  AKIAIOSFODNN7EXAMPLE  AKIAXXXXXXXXXXXXXXXX  ghp_xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx
ghp_YourTokenGoesHereYourTokenGoesHere12  ghp_${TOKEN}  hf_xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx  sk_live_...  sk_test_4eC39HqLyjWDarjtT1zdp7dc  sk-YOUR-OPENAI-KEY  sk-xxxxxxxxxxxxxxxxxxxxT3BlbkFJxxxxxxxxxxxxxxxxxxxx
npm_config_registry_and_many_more_words_1  npm_aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa  xoxb-your-token  xoxb-123456789012-123456789012-xxxxxxxxxxxxxxxxxxxxxxxx  AIzaSyXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXX
eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiIxMjM0NTY3ODkwIiwibmFtZSI6IkpvaG4gRG9lIiwiaWF0IjoxNTE2MjM5MDIyfQ.SflKxwRJSMeKKF2QT4fwpMeJf36POk6yJV_adQssw5c  eyJhbGciOiJIUzI1NiJ9...
AccountKey=<your-account-key>;  postgres://user:password@localhost  postgresql://postgres:postgres@db:5432/app  https://user:pass1234567@example.com  mongodb://admin:changeme12345@host  redis://:${REDIS_PASSWORD}@cache:6379
https://host:6333/collections/a@b  ssh://git@github.com:22/a/b.git  http://[::1]:6333/x@y  -----BEGIN PRIVATE KEY-----\n...\n-----END PRIVATE KEY-----  -----BEGIN CERTIFICATE-----  pypi-AgEIcHlwaS5vcmcCJ...
pypi-AgEI...  AKIA_is_a_prefix  class hf_BertForSequenceClassificationOutput:  sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08  https://a.b/c?x=1:2@3'''

@pytest.mark.parametrize('text', HARMLESS.replace('\n', '  ').split('  '))
def test_what_shows_how_a_key_looks_is_none(text):
    for place in PLACES: assert list(find_secrets(place.format(text))) == []

@settings(max_examples=200, deadline=None)
@given(st.text(alphabet=st.sampled_from('abcxyzJKz_@:/.-{}"\n 017AI=+'), max_size=300))
def test_any_text_can_be_looked_at(text):
    for secret in find_secrets(text): assert 1 <= secret.line <= text.count('\n') + 1

@pytest.fixture
def secrets(): return {kind: made[-1](some(random.Random(7))) for kind,made in MADE.items()}

def test_documents_with_keys_are_left_out_and_said(secrets, tmp_path, capsys):
    (tmp_path/'src').mkdir()
    (tmp_path/'src/a.md').write_text('# A\n\nA text about AKIAIOSFODNN7EXAMPLE.\n')
    for i,value in enumerate(secrets.values()): (tmp_path/f'src/conf{i:02}.py').write_text(f'# Settings\nkey = """{value}"""\n')
    assert run_command(coderank_chunk.__wrapped__, [str(tmp_path/'src'), str(tmp_path/'tree')]) == 0
    said, told = capsys.readouterr().err, (tmp_path/'tree.summary.json').read_text()
    about = json.loads(told)
    assert about['left_out'] == dict(secret_inside=len(secrets)) and about['found'] == len(secrets) + 1 == about['cut'] + len(secrets)
    assert about['left_out_examples']['secret_inside'] == [f'conf{i:02}.py ({kind} in line 2)' for i,kind in enumerate(secrets)]
    assert f'with keys or passwords in their text: {len(secrets)} (conf00.py (AWS access key in line 2)' in said and '--secrets' in said
    assert not [kind for kind,value in secrets.items() if value[10:40] in said or value[10:40] in told]
    assert len(read_corpus(tmp_path/'tree').chunks) == 1
    assert run_command(coderank_chunk.__wrapped__, [str(tmp_path/'src'), str(tmp_path/'tree'), '--secrets']) == 0
    assert json.loads((tmp_path/'tree.summary.json').read_text())['cut'] == len(secrets) + 1

def test_a_tree_of_others_is_embedded_with_a_warning(secrets, tiny, tmp_path, capsys):
    plain = [f'text {i}' for i in range(6)]
    write_file(tmp_path/'c', 'docs/a_chunks.json', plain[:3] + [f'key: {value}' for value in secrets.values()] + plain[3:], 'a.md')
    corpus = read_corpus(tmp_path/'c')
    assert list(corpus.secrets) == list(range(3, 3 + len(secrets))) and corpus.problems == [] and len(corpus.chunks) == 6 + len(secrets)
    said = secret_note(corpus)
    assert said == (f'Keys or passwords seem to stand in {len(secrets)} chunks, embedded as they are: c:docs:a.md:chunk:3 (AWS access key), '
                    f'c:docs:a.md:chunk:4 (GitHub token), c:docs:a.md:chunk:5 (Stripe key) and {len(secrets) - 3} more.')
    assert run_command(coderank_embed.__wrapped__, [str(tmp_path/'c'), '--out', str(tmp_path/'out'), '--profile', str(tiny), '--devices', 'cpu', '--strict', '--limit', '4']) == 0
    err = capsys.readouterr().err
    assert 'Keys or passwords seem to stand in 1 chunk, embedded as they are: c:docs:a.md:chunk:3 (AWS access key).' in err
    account = summary_of(tmp_path/'out', 'c')['account']
    assert account['found'] == 6 + len(secrets) and account['embedded'] == 4 and account['reported'] == account['quarantined'] == 0
    assert not [value for value in secrets.values() if value[10:40] in err]
