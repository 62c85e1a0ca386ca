import { compareRisks, compareTexts, isMatch, valuesOf } from './filters';

const NONE = { owner: [], risk: [], status: [] };
const CART = { id: '0', name: 'cart', owner: 'shop', risk: 'high', status: 'active' };
const TOOL = { id: '1', name: 'tool' };

test('no choice lets everything through', () => {
  expect(isMatch(CART, NONE)).toBe(true);
  expect(isMatch(TOOL, NONE)).toBe(true);
});

test('values of one filter are alternatives, filters add up', () => {
  expect(isMatch(CART, { ...NONE, risk: ['low', 'high'] })).toBe(true);
  expect(isMatch(CART, { ...NONE, risk: ['high'], owner: ['ops'] })).toBe(false);
});

test('a missing value can be chosen', () => {
  expect(isMatch(TOOL, { ...NONE, status: ['-'] })).toBe(true);
  expect(isMatch(CART, { ...NONE, status: ['-'] })).toBe(false);
  expect(valuesOf([TOOL, CART], 'owner')).toEqual(['shop', '-']);
});

test('risks go from low to high, unknown ones after, missing ones last', () => {
  const risks = [undefined, 'severe', 'high', 'low', 'medium'];
  expect(risks.map(risk => ({ risk })).sort((a, b) => compareRisks(a.risk, b.risk))).toEqual(
    ['low', 'medium', 'high', 'severe', undefined].map(risk => ({ risk })),
  );
});

test('texts go by name, missing ones last', () => {
  expect(['b', '-', 'a'].sort(compareTexts)).toEqual(['a', 'b', '-']);
});
