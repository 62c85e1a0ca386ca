import { commitUrl, listUrl, ownerRef, webUrl } from './links';
import { pipelineEntity } from './testEntities';

const SHA = '0123456789abcdef0123456789abcdef01234567';

test.each([
  ['team-a', { kind: 'group', namespace: 'default', name: 'team-a' }],
  ['user:jo', { kind: 'user', namespace: 'default', name: 'jo' }],
  ['group:ops/team-a', { kind: 'group', namespace: 'ops', name: 'team-a' }],
])('the owner %s leads to an entity', (owner, ref) => {
  expect(ownerRef(owner)).toEqual(ref);
});

test('an owner is looked for in the namespace of the entity', () => {
  expect(ownerRef('team-a', 'shop')?.namespace).toBe('shop');
});

test.each([
  '',
  'javascript:alert(1)',
  'data:text/html,x',
  'component:default/x',
  'Team with spaces',
  '../../settings',
  'team-a/../../x',
  '<img src=x onerror=alert(1)>',
  'a:b:c',
  'x'.repeat(64),
])('the owner %p is only text', owner => {
  expect(ownerRef(owner)).toBeUndefined();
});

test.each([
  undefined,
  '',
  'javascript:alert(1)',
  ' java\nscript:alert(1)',
  'JAVASCRIPT:alert(1)',
  'data:text/html,<script>alert(1)</script>',
  'vbscript:x',
  'file:///etc/passwd',
  's3://bucket/key',
  '/relative',
  '//host/path',
])('no link leads to %p', url => {
  expect(webUrl(url)).toBeUndefined();
});

test('a link leads to http and https', () => {
  expect(webUrl('https://example.com/a?b=c')).toBe('https://example.com/a?b=c');
  expect(webUrl('http://127.0.0.1:1/')).toBe('http://127.0.0.1:1/');
});

test.each([
  [
    'url:https://github.com/example/platform/tree/registry/catalog/',
    `https://github.com/example/platform/commit/${SHA}`,
  ],
  [
    'url:https://git.example.com/example/platform/blob/main/a.yaml',
    `https://git.example.com/example/platform/commit/${SHA}`,
  ],
  [
    'url:https://gitlab.com/group/sub/platform/-/blob/main/a.yaml',
    `https://gitlab.com/group/sub/platform/-/commit/${SHA}`,
  ],
  [
    'url:https://gitea.example.com/example/platform/src/branch/main/a.yaml',
    `https://gitea.example.com/example/platform/commit/${SHA}`,
  ],
  [
    'url:https://bitbucket.org/example/platform/src/main/a.yaml',
    `https://bitbucket.org/example/platform/commits/${SHA}`,
  ],
])('the commit of an entity read from %s has a page', (location, page) => {
  expect(commitUrl(entityFrom(location), SHA)).toBe(page);
});

test.each([
  'file:/srv/catalog/ecr-registry.yaml',
  'url:https://bucket.s3.eu-west-2.amazonaws.com/ecr-registries/a.yaml',
  'url:javascript:alert(1)//x/y/blob/main/a',
  'url:https://github.com/example',
])('the commit of an entity read from %s has no page', location => {
  expect(commitUrl(entityFrom(location), SHA)).toBeUndefined();
});

test.each(['', '../../evil', 'javascript:alert(1)', 'main', `${SHA}?x`])(
  'the commit %p has no page',
  sha => {
    const entity = entityFrom('url:https://github.com/e/p/blob/main/a.yaml');
    expect(commitUrl(entity, sha)).toBeUndefined();
  },
);

test('where Backstage names the source, the commit is looked for there', () => {
  const entity = entityFrom('url:https://github.com/e/p/blob/main/a.yaml');
  entity.metadata.annotations!['backstage.io/source-location'] =
    'url:https://github.com/e/source/tree/main/';

  expect(commitUrl(entity, SHA)).toBe(`https://github.com/e/source/commit/${SHA}`);
});

const LIST = 'a.yaml.0123456789abcdef.jsonl';

test('a list beside the entity has a page on the same git host', () => {
  const entity = entityFrom('url:https://github.com/e/p/blob/main/catalog/a.yaml');
  // The folder that Backstage calls the source is none of a file.
  entity.metadata.annotations!['backstage.io/source-location'] =
    'url:https://github.com/e/p/tree/main/catalog/';

  expect(listUrl(entity, { path: LIST })).toBe(
    `https://github.com/e/p/blob/main/catalog/${LIST}`,
  );
});

test.each([
  '',
  '../other.jsonl',
  '/e/p/blob/main/x',
  '//example.com/x',
  'https://example.com/x',
  'javascript:alert(1)',
  'http://[',
])('a list at %p has no page', path => {
  const entity = entityFrom('url:https://github.com/e/p/blob/main/catalog/a.yaml');
  expect(listUrl(entity, { path })).toBeUndefined();
});

test('a list has no page where the entity was read from a file', () => {
  expect(listUrl(entityFrom('file:/srv/a.yaml'), { path: LIST })).toBeUndefined();
});

test('the address of a list is its page, unless it runs a script', () => {
  const entity = entityFrom('file:/srv/a.yaml');
  expect(listUrl(entity, { url: 'https://example.com/a' })).toBe('https://example.com/a');
  expect(listUrl(entity, { url: 'javascript:alert(1)', path: LIST })).toBeUndefined();
});

function entityFrom(location: string) {
  const entity = pipelineEntity();
  entity.metadata.annotations!['backstage.io/managed-by-location'] = location;
  return entity;
}
