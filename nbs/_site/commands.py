"The command reference as Markdown, made from the parsers that the commands use themselves."
import argparse, configparser, importlib, re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

EXAMPLES = dict(
    coderank_chunk='coderank_chunk my_docs chunks',
    coderank_embed='coderank_embed chunks --out run --profile offline',
    coderank_index='coderank_index run --location index',
    coderank_search="coderank_search 'How do refunds get paid?' --location index --limit 3",
    coderank_sync='coderank_sync my_docs .coderank',
    coderank_evaluate='coderank_evaluate --location index --queries questions.jsonl',
    coderank_compare='coderank_compare --input chunks --out compare --profiles offline,light',
    coderank_mcp='coderank_mcp --location index',
    coderank_kaggle='coderank_kaggle push --owner my-name --corpus my-corpus --wheels')

def commands():
    "name: its function, for each command of the package that settings.ini lists."
    settings = configparser.ConfigParser(delimiters='=')
    settings.read(ROOT/'settings.ini', encoding='utf-8')
    listed = dict(line.split('=') for line in settings['DEFAULT']['console_scripts'].split())
    mine = {name: place.split(':') for name,place in listed.items() if name.startswith('coderank_')}
    first = sorted(mine, key=lambda name: list(EXAMPLES).index(name) if name in EXAMPLES else len(EXAMPLES))
    return {name: getattr(importlib.import_module(mine[name][0]), mine[name][1]) for name in first}

def parser_of(function):
    "The parser that the command itself uses."
    from coderank_qdrant.command import option_parser
    return option_parser(getattr(function, '__wrapped__', function))

def arguments(parser):
    "(names, kind of value, default, help) of each argument, except --help and what the library adds for itself."
    for action in parser._actions:
        if action.help == argparse.SUPPRESS or action.dest == 'help': continue
        words = parser._get_formatter()._expand_help(action) if action.help else ''
        words = re.sub(r'\s*\(default: .*\)$', '', words, flags=re.S)
        kind = str(action.metavar or '') if action.nargs != 0 else ''
        default = action.default if action.option_strings and action.default not in (None, argparse.SUPPRESS) else ''
        yield action.option_strings or [action.dest], kind.strip('()'), str(default), words

def row(names, kind, default, words):
    "An argument as a row of a Markdown table."
    shown = ', '.join(f'`{name}`' for name in names)
    value = f'`{default}`' if default else ''
    return f'| {shown} | {kind} | {value} | {words.replace("|", chr(92) + "|")} |'

def section(name, function):
    "A command as Markdown."
    parser = parser_of(function)
    positional = [action.dest for action in parser._actions if not action.option_strings]
    usage = ' '.join([name, *[word.upper() for word in positional], '[OPTIONS]'])
    rows = [row(*argument) for argument in arguments(parser)]
    example = f'Example:\n\n```sh\n{EXAMPLES[name]}\n```' if name in EXAMPLES else ''
    table = '\n'.join(['| argument | value | default | meaning |', '|---|---|---|---|', *rows])
    return f'## {name}\n\n{parser.description.strip()}\n\n```text\n{usage}\n```\n\n{example}\n\n{table}\n'

def commands_page():
    "The whole page: commands.md with the commands put in."
    found = commands()
    contents = '\n'.join(f'| {parser_of(f).description.strip()} | [`{name}`](#{name}) |' for name,f in found.items())
    page = (ROOT/'nbs/_site/commands.md').read_text(encoding='utf-8')
    sections = '\n'.join(section(name, f) for name,f in found.items())
    return page.replace('{contents}', contents).replace('{sections}', sections)
