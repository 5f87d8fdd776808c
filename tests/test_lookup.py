"What the site says of commands, files and messages, held against the code."
import ast, re, shlex, sqlite3, sys
import pytest
from conftest import ROOT, read_jsonl, summary_of, write_file
from coderank_qdrant.command import option_parser, run_command
from coderank_qdrant.events import NAMES
from coderank_qdrant.finished import run_files, survey_run
from coderank_qdrant.index import describe_run, make_points
from coderank_qdrant.pipeline import embed_corpus

sys.path.insert(0, str(ROOT/'nbs/_site'))
from commands import EXAMPLES, commands, commands_page

COMMANDS, PAGE = commands(), commands_page()
FILES = (ROOT/'nbs/lookup/files.md').read_text(encoding='utf-8')
MESSAGES = (ROOT/'nbs/lookup/messages.md').read_text(encoding='utf-8')
ALL_PAGES = [*sorted((ROOT/'nbs').glob('[a-z]*/*.md')), ROOT/'README.md', ROOT/'CONTRIBUTING.md']

def section(page, heading):
    "What stands below a heading, up to the next heading of any rank."
    return re.search(rf'^#+ {re.escape(heading)}\n(.*?)(?=^#|\Z)', page, re.S | re.M)[1]

def rows(text):
    "The cells of each row of a table, without its head."
    found = [re.split(r'(?<!\\)\|', line)[1:-1] for line in text.splitlines() if line.startswith('|')]
    return [[cell.strip().replace('\\|', '|') for cell in row] for row in found[2:]]

def names(page, heading):
    "The names in the first column of the table below a heading."
    return [name for row in rows(section(page, heading)) for name in re.findall(r'`([^`]+)`', row[0])]

@pytest.mark.parametrize('name', COMMANDS)
def test_the_reference_says_what_help_says(name, capsys, monkeypatch):
    monkeypatch.setenv('COLUMNS', '400')
    with pytest.raises(SystemExit): run_command(COMMANDS[name].__wrapped__, ['--help'])
    text = ' '.join(capsys.readouterr().out.split())
    assert ' '.join(option_parser(COMMANDS[name].__wrapped__).description.split()) in text
    rest = re.search(r'(?:positional arguments:|options:) .*', text)[0]
    mine = rows(section(PAGE, name))
    for shown,kind,default,words in mine:
        said = [shown.replace('`', ''), f'({kind})' if kind else '', words, f'(default: {default[1:-1]})' if default else '']
        line = ' '.join(filter(None, said))
        assert line in rest, line
        rest = rest.replace(line, '', 1)
    left = re.sub(r'positional arguments:|options:|--help, -h show this help message and exit|coderank_qdrant [\d.]+', '', rest)
    assert mine and not left.strip(), f'not in the reference: {left}'

def test_every_command_has_an_example():
    assert EXAMPLES.keys() == COMMANDS.keys()

def shell_lines():
    "(page, command line) of every line on the site that calls one of the commands."
    pages = {page.name: page.read_text(encoding='utf-8') for page in ALL_PAGES} | {'commands.md': PAGE}
    for name,text in pages.items():
        for block in re.findall(r'```sh\n(.*?)```', text, re.S):
            yield from ((name, line) for line in block.splitlines() if re.match(r'coderank_(?!.*--help)', line))

@pytest.mark.parametrize('page,line', list(shell_lines()))
def test_command_lines_on_the_site_can_be_parsed(page, line):
    command, *words = shlex.split(line.partition(' && ')[0])
    option_parser(COMMANDS[command].__wrapped__).parse_args(words)

def test_every_variable_of_the_environment_is_named():
    code = '\n'.join(file.read_text(encoding='utf-8') for file in (ROOT/'coderank_qdrant').glob('*.py'))
    used = set(re.findall(r"environ(?:\.get\(|\[)'([A-Z_]+)'", code)) | set(re.findall(r"'([A-Z_]+)' in os\.environ", code))
    assert 'QDRANT_API_KEY' in used and used <= set(names(PAGE, 'Environment variables'))

@pytest.fixture(scope='module')
def run(tmp_path_factory, tiny):
    "A small run with a key of the corpus's own that is replaced."
    root = tmp_path_factory.mktemp('lookup')
    write_file(root/'c', 'docs/a_chunks.json', ['one text', 'another text', 'a third'])
    return embed_corpus(root/'c', root/'out', profile=str(tiny), parquet=True)

def test_fields_of_the_jsonl(run):
    line = read_jsonl(run.jsonl)[0]
    assert set(names(FILES, 'The JSONL')) == line.keys()
    assert set(names(FILES, 'Metadata that is added')) - {'original_metadata'} <= line['metadata'].keys()
    assert line['metadata'].keys() - set(names(FILES, 'Metadata that is added')) <= {'index', 'original_metadata'}

def test_columns_of_the_parquet_file(run):
    import pyarrow.parquet as pq
    columns = pq.read_schema(run.jsonl.with_suffix('.parquet')).names
    assert re.findall(r'`(\w+)`', section(FILES, 'The Parquet file')) == columns

def test_fields_of_the_summary(run):
    summary = summary_of(run.out, 'c')
    assert names(FILES, 'The summary') == list(summary)
    assert names(FILES, 'Each model in `models`') == list(summary['models'][0])
    account = re.search(r'\| `account` \|(.*)\|', FILES)[1]
    assert re.findall(r'`(\w+)`', account) == list(summary['account'])

def test_events_and_their_fields(run):
    table = {row[0].strip('`'): set(re.findall(r'`(\w+)`', row[2])) for row in rows(section(FILES, 'metrics.jsonl'))}
    assert table.keys() == set(NAMES)
    counts = {'done', 'total', 'new', 'tokens', 'all_tokens', 'seconds', 'counters'}
    assert counts <= set(re.findall(r'`(\w+)`', FILES.partition('The counts:')[2].partition('\n')[0]))
    for event in read_jsonl(run.out/'metrics.jsonl'):
        known = table[event['event']] | (counts if event['event'] in ('plan', 'batch') else set())
        assert event.keys() - known <= {'event', 'time', 'worker', 'text'}, event['event']

def test_tables_of_the_cache(run):
    with sqlite3.connect(run.out/'vectors.sqlite') as db:
        tables = [name for name, in db.execute("select name from sqlite_master where type='table' and name not like 'sqlite_%'")]
        there = {table: [column[1] for column in db.execute(f'pragma table_info({table})')] for table in tables}
    said = {row[0].strip('`'): re.findall(r'`(\w+)`', row[1]) for row in rows(section(FILES, 'The tables of `vectors.sqlite`'))}
    assert said == there

def test_keys_of_the_payload(run):
    summary, jsonl, _ = run_files(run)
    line = read_jsonl(jsonl)[0]
    point, = make_points([line], describe_run(summary, survey_run(summary, jsonl)))
    assert point['payload'].keys() - line['metadata'].keys() == set(names(FILES, 'The payload in Qdrant'))

def test_the_ten_names_are_public():
    import coderank_qdrant.all as everything
    page = (ROOT/'nbs/lookup/python.md').read_text(encoding='utf-8')
    ten = re.findall(r'^\| \[`(\w+)`\]', page, re.M)
    assert len(ten) == 10 and set(ten) <= set(everything.__all__)

def said_by_the_package():
    "Every text of the package's code, with ... for what is put in."
    for file in (ROOT/'coderank_qdrant').glob('*.py'):
        for node in ast.walk(ast.parse(file.read_text(encoding='utf-8'))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str): yield node.value
            if isinstance(node, ast.JoinedStr): yield ''.join(part.value if isinstance(part, ast.Constant) else '...' for part in node.values)

SAID = '\n'.join(said_by_the_package())
OF_PYTHON = "No module named 'pathspec'" # Python's own words, where a package is missing

@pytest.mark.parametrize('message', re.findall(r'^### `(.*)`$', MESSAGES, re.M))
def test_messages_are_those_of_the_package(message):
    if message == OF_PYTHON:
        assert 'from pathspec import' in (ROOT/'coderank_qdrant/documents.py').read_text(encoding='utf-8')
        return
    parts = [part.strip() for part in message.strip(' .').split('...') if len(part.strip()) > 2]
    assert parts and all(part.strip(' .') in SAID for part in parts), parts
