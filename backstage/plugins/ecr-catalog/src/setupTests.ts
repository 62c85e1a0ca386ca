import '@testing-library/jest-dom';

import { configure } from '@testing-library/react';

// A busy machine is slow, not wrong.
configure({ asyncUtilTimeout: 60_000 });
jest.setTimeout(120_000);
